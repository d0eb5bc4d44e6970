"""CPUs of the host: where interrupts go, how deep they idle, how their frequency is governed."""
