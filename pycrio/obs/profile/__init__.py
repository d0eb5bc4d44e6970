"""Profiles of the daemon itself, in the form that pprof reads: CPU time, memory, what is being waited for."""
