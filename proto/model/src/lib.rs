//! The words of caisson: ids, jobs, steps, policy, leases, outcomes, logs.
