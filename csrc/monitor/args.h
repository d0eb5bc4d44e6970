/* The monitor's command line: conmon's options, parsed by the rules of GLib's option parser, which conmon's callers
 * rely on: "--opt=v" and "--opt v", bundled short flags, values taken from the next argument whatever it looks like,
 * other words ignored, "--" ends the options. Pure: no output, no exit, no environment. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pc_strings {
        const char **v;
        int n;
};

struct pc_args {
        /* flags */
        bool api_version, exec, exec_attach, full_attach, leave_stdin_open, log_rotate, no_partial_field,
            no_new_keyring, no_pivot, no_sync_log, replace_listen_pid, stdin_pipe, sync, syslog, systemd_cgroup,
            terminal, version, help;
        /* strings, NULL when not given */
        const char *bundle, *cid, *conmon_pidfile, *container_pidfile, *cuuid, *exec_process_spec, *exit_command,
            *exit_dir, *log_level, *log_tag, *name, *persist_dir, *restore, *runtime, *sdnotify_socket, *socket_dir;
        /* lists */
        struct pc_strings exit_args, log_allow, log_labels, log_paths, runtime_args, runtime_opts;
        /* numbers */
        int exit_delay, log_max_files, timeout;
        int64_t log_size_max, log_total_max;
};

#define PC_ARGS_TEXT 512

/* Parse argv[1..argc), up to a word that asks for help. pool takes the list members: argc pointers. 0, or -EINVAL with
 * one line in text. */
int pc_args_parse(int argc, char **argv, const char **pool, struct pc_args *ret, char text[PC_ARGS_TEXT]);

/* What conmon checks before it looks for the runtime, and after that. 0, or -EINVAL with one line in text. */
int pc_args_check(const struct pc_args *a, char text[PC_ARGS_TEXT]);
int pc_args_check_job(const struct pc_args *a, char text[PC_ARGS_TEXT]);

/* Where the log goes. path points into the argument, which is not changed. */
struct pc_log_choice {
        bool file, journal, passthrough;
        const char *path;
};
int pc_args_log(const struct pc_args *a, struct pc_log_choice *ret, char text[PC_ARGS_TEXT]);

enum pc_level { PC_LEVEL_ERROR, PC_LEVEL_WARN, PC_LEVEL_INFO, PC_LEVEL_DEBUG, PC_LEVEL_TRACE };
int pc_args_level(const char *name, enum pc_level *ret);

/* One line per option for --help; index from 0, NULL at the end. */
const char *pc_args_help(int index, const char **ret_name, char *ret_letter);
