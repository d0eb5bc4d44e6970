"""seccomp, AppArmor, SELinux, capabilities."""
