//! Runs one program in isolated namespaces under seccomp, cgroup limits and no capabilities.
