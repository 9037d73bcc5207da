//! Workflow text to plan, pure.
