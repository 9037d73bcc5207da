//! Schedules jobs to agents and keeps the journal.
