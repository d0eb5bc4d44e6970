// SRC: csrc/monitor/args.c
/* The command line: what conmon accepts and how it refuses (messages taken down from conmon 2.1.6). */
#include "monitor/args.h"
#include "tap.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct pc_args a;
static char text[PC_ARGS_TEXT];
static const char *pool[64];

static int parse(char **words) {
        char *argv[64] = {(char *) "monitor"};
        int argc = 1;
        for (; words[argc - 1]; argc++)
                argv[argc] = words[argc - 1];
        text[0] = '\0';
        return pc_args_parse(argc, argv, pool, &a, text);
}
#define PARSE(...) parse((char *[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static bool refused(int r, const char *want) {
        if (r != -EINVAL || strcmp(text, want) != 0)
                printf("# %d: %s\n", r, text);
        return r == -EINVAL && strcmp(text, want) == 0;
}

static bool same(const char *x, const char *y) {
        return x && strcmp(x, y) == 0;
}

static void forms(void) {
        ok(PARSE() == 0 && !a.cid && a.log_size_max == -1 && a.log_total_max == -1 && a.log_max_files == 1 &&
               a.timeout == 0,
           "no options: defaults");
        ok(PARSE("--cid", "x", "--bundle=/b", "-u", "y") == 0 && same(a.cid, "x") && same(a.bundle, "/b") &&
               same(a.cuuid, "y"),
           "values apart, after =, and short");
        ok(PARSE("--cid=") == 0 && same(a.cid, "") && PARSE("--cid", "--sync") == 0 && same(a.cid, "--sync") && !a.sync,
           "a value may be empty or look like an option");
        ok(PARSE("-tis") == 0 && a.terminal && a.stdin_pipe && a.systemd_cgroup, "bundled flags");
        ok(PARSE("-tb", "/b", "-i") == 0 && a.terminal && same(a.bundle, "/b") && a.stdin_pipe,
           "a value after a bundle");
        ok(PARSE("-bt", "/b") == 0 && a.terminal && same(a.bundle, "/b"), "whose letter need not be the last");
        ok(PARSE("--sync=1") == 0 && a.sync && PARSE("--sync=") == 0 && a.sync, "a flag with = is set");
        ok(PARSE("one", "-", "--sync", "two") == 0 && a.sync, "other words are passed over");
        ok(PARSE("--", "--sync", "--foo") == 0 && !a.sync, "-- ends the options");
        ok(PARSE("-c", "a", "-c", "b") == 0 && same(a.cid, "b"), "the last value counts");
        ok(PARSE("--api-version", "1", "-e") == 0 && a.api_version && a.exec, "api-version is a flag, its 1 a word");
        ok(PARSE("--pidfile", "/p") == 0 && same(a.container_pidfile, "/p"), "the old name of the pid file");
}

static void all(void) {
        ok(PARSE("--api-version", "-b", "B", "-c", "C", "-P", "MP", "-p", "CP", "-u", "U", "-e", "--exec-attach",
                 "--exec-process-spec", "S", "--exit-command", "X", "--exit-delay", "3", "--exit-dir", "D",
                 "--full-attach", "--leave-stdin-open", "--log-level", "info", "--log-rotate", "--log-max-files",
                 "4") == 0 &&
               a.api_version && same(a.bundle, "B") && same(a.cid, "C") && same(a.conmon_pidfile, "MP") &&
               same(a.container_pidfile, "CP") && same(a.cuuid, "U") && a.exec && a.exec_attach &&
               same(a.exec_process_spec, "S") && same(a.exit_command, "X") && a.exit_delay == 3 &&
               same(a.exit_dir, "D") && a.full_attach && a.leave_stdin_open && same(a.log_level, "info") &&
               a.log_rotate && a.log_max_files == 4,
           "options a to l");
        ok(PARSE("--log-size-max", "-1", "--log-global-size-max=9223372036854775807", "--log-tag", "T", "-n", "N",
                 "--no-container-partial-message", "--no-new-keyring", "--no-pivot", "--no-sync-log", "-0", "PD",
                 "--replace-listen-pid", "--restore", "R", "-r", "RT", "--sdnotify-socket", "SD", "--socket-dir-path",
                 "SP", "-i", "--sync", "--syslog", "-s", "-t", "-T", "0x10", "--version", "-h") == 0 &&
               a.log_size_max == -1 && a.log_total_max == INT64_MAX && same(a.log_tag, "T") && same(a.name, "N") &&
               a.no_partial_field && a.no_new_keyring && a.no_pivot && a.no_sync_log && same(a.persist_dir, "PD") &&
               a.replace_listen_pid && same(a.restore, "R") && same(a.runtime, "RT") && same(a.sdnotify_socket, "SD") &&
               same(a.socket_dir, "SP") && a.stdin_pipe && a.sync && a.syslog && a.systemd_cgroup && a.terminal &&
               a.timeout == 16 && a.version && a.help,
           "options l to v, numbers in any base of C");
        ok(PARSE("--runtime-arg", "1", "-l", "L1", "--runtime-opt", "o1", "--runtime-arg=2", "--log-path", "L2",
                 "--restore-arg", "o2", "--exit-command-arg", "e1", "--runtime-arg", "3", "--log-label", "A=1",
                 "--log-allowlist-dir", "/d", "--exit-command-arg", "e2", "--log-label", "B=2") == 0 &&
               a.runtime_args.n == 3 && same(a.runtime_args.v[0], "1") && same(a.runtime_args.v[1], "2") &&
               same(a.runtime_args.v[2], "3") && a.log_paths.n == 2 && same(a.log_paths.v[0], "L1") &&
               same(a.log_paths.v[1], "L2") && a.runtime_opts.n == 2 && same(a.runtime_opts.v[0], "o1") &&
               same(a.runtime_opts.v[1], "o2") && a.exit_args.n == 2 && same(a.exit_args.v[0], "e1") &&
               same(a.exit_args.v[1], "e2") && a.log_labels.n == 2 && same(a.log_labels.v[1], "B=2") &&
               a.log_allow.n == 1 && same(a.log_allow.v[0], "/d"),
           "lists keep their order, mixed as they may come");
}

static void asked_for_help(void) {
        ok(PARSE("-h") == 0 && a.help && PARSE("-?") == 0 && a.help && PARSE("--help") == 0 && a.help &&
               PARSE("--help-all") == 0 && a.help,
           "every way to ask for help");
        ok(PARSE("-th", "--foo") == 0 && a.help && a.terminal && PARSE("--help", "-T", "x") == 0 && a.help &&
               PARSE("-rhl") == -EINVAL && PARSE("-rhl", "x") == 0 && a.help,
           "what comes behind it is not looked at");
        ok(PARSE("--foo", "--help") == -EINVAL, "what comes before is");
        ok(PARSE("-c", "--help") == 0 && !a.help && PARSE("--", "--help") == 0 && !a.help, "a value is none");
        ok(refused(PARSE("--help="), "Unknown option --help="), "it takes no =");
}

static void refusals(void) {
        ok(refused(PARSE("--foo"), "Unknown option --foo"), "unknown long option");
        ok(refused(PARSE("--foo=x"), "Unknown option --foo=x"), "with a value");
        ok(refused(PARSE("--vers"), "Unknown option --vers"), "no abbreviations");
        ok(refused(PARSE("-tx"), "Unknown option -tx"), "unknown letter: the whole bundle is shown");
        ok(refused(PARSE("-t=1"), "Unknown option -t=1"), "a short flag takes no =");
        ok(refused(PARSE("--cid"), "Missing argument for --cid"), "missing value");
        ok(refused(PARSE("-c"), "Missing argument for -c"), "of a short option");
        ok(refused(PARSE("-btfoo"), "Missing argument for -b"), "values are not glued to letters");
        ok(refused(PARSE("-bc", "x", "y"), "Error parsing option -c"), "one bundle takes one value");
        ok(refused(PARSE("-T", "abc"), "Cannot parse integer value “abc” for -T"), "no number");
        ok(refused(PARSE("--timeout="), "Cannot parse integer value “” for --timeout"), "an empty one");
        ok(refused(PARSE("-T", "5x"), "Cannot parse integer value “5x” for -T"), "text after it");
        ok(refused(PARSE("-T", "99999999999"), "Integer value “99999999999” for -T out of range"),
           "too large for an int");
        ok(refused(PARSE("--log-size-max", "9999999999999999999999"),
                   "Integer value “9999999999999999999999” for --log-size-max out of range"),
           "too large for 64 bits");
        char huge[2000];
        memset(huge, 'q', sizeof huge - 1);
        huge[0] = huge[1] = '-';
        huge[sizeof huge - 1] = '\0';
        ok(PARSE(huge) == -EINVAL && strlen(text) == PC_ARGS_TEXT - 1, "a huge word is cut in the message");
}

static void checks(void) {
        PARSE("-c", "x");
        ok(refused(pc_args_check(&a, text), "Container UUID not provided. Use --cuuid"), "no uuid");
        PARSE("-c", "x", "-u", "y");
        ok(refused(pc_args_check(&a, text), "Runtime path not provided. Use --runtime"), "no runtime");
        PARSE("-c", "x", "-u", "y", "-r", "/r");
        ok(pc_args_check(&a, text) == 0 && pc_args_check_job(&a, text) == 0, "enough for a container");
        PARSE("-c", "x", "-e", "-r", "/r");
        ok(pc_args_check(&a, text) == 0 &&
               refused(pc_args_check_job(&a, text), "Exec process spec path not provided. Use --exec-process-spec"),
           "exec without process");
        PARSE("-c", "x", "-e", "-r", "/r", "--exec-process-spec", "/p");
        ok(pc_args_check(&a, text) == 0 && pc_args_check_job(&a, text) == 0, "enough for an exec");
        PARSE("-c", "x", "-e", "-r", "/r", "--exec-process-spec", "/p", "--api-version");
        ok(refused(pc_args_check(&a, text), "Container UUID not provided. Use --cuuid"), "the newer exec needs a uuid");
        PARSE("-c", "x", "-e", "--restore", "/c");
        ok(refused(pc_args_check(&a, text), "Cannot use 'exec' and 'restore' at the same time"), "exec and restore");
        PARSE("-c", "x", "--exec-attach");
        ok(refused(pc_args_check(&a, text), "Attach can only be specified with exec"), "attach without exec");
        PARSE("-c", "x", "--exec-attach", "-e");
        ok(refused(pc_args_check(&a, text), "Attach can only be specified for a non-legacy exec session"),
           "attach with old exec");
        PARSE("-c", "x", "-u", "y", "-r", "/r", "--exit-delay", "-1");
        ok(refused(pc_args_check_job(&a, text),
                   "Delay before invoking exit command must be greater than or equal to 0"),
           "negative delay");
        PARSE("-c", "x", "-u", "y", "-r", "/r", "--log-level", "loud");
        ok(refused(pc_args_check(&a, text), "No such log level loud"), "unknown level");
        enum pc_level level;
        ok(pc_args_level("WARNING", &level) == 0 && level == PC_LEVEL_WARN && pc_args_level("panic", &level) == 0 &&
               level == PC_LEVEL_ERROR && pc_args_level("trace", &level) == 0 && level == PC_LEVEL_TRACE,
           "levels in any case");
}

#define LOG(...) (PARSE("-c", "0123456789abc", __VA_ARGS__), pc_args_log(&a, &log, text))

static void logs(void) {
        struct pc_log_choice log;
        ok(refused(LOG("-t"), "Log driver not provided. Use --log-path"), "no log");
        ok(LOG("-l", "/var/log/x") == 0 && log.file && !log.journal && same(log.path, "/var/log/x"), "a path");
        ok(LOG("-l", "k8s-file:/x") == 0 && log.file && same(log.path, "/x"), "a driver and a path");
        ok(LOG("-l", ":/x") == 0 && log.file && same(log.path, "/x"), "no driver and a path");
        ok(LOG("-l", ":none") == 0 && log.file && same(log.path, "none"), ":none is a file");
        ok(LOG("-l", "none") == 0 && !log.file && !log.journal && !log.passthrough, "none");
        ok(LOG("-l", "off:") == 0 && !log.file && LOG("-l", "null:x") == 0 && !log.file, "off and null");
        ok(LOG("-l", "journald:", "-l", "/x") == 0 && log.journal && log.file, "two of them");
        ok(LOG("-l", "journald", "-l", "none") == 0 && log.journal, "none takes nothing away");
        ok(LOG("-l", "passthrough") == 0 && log.passthrough && !log.file, "passthrough");
        ok(LOG("-l", "/a", "-l", "/b") == 0 && same(log.path, "/b"), "of two files the last");
        ok(refused(LOG("-l", "foo:x"), "No such log driver foo"), "an unknown driver");
        ok(refused(LOG("-l", "k8s-file:"), "k8s-file requires a filename"), "no file name");
        ok(refused(LOG("-l", "k8s-file"), "k8s-file requires a filename"), "nor a colon");
        ok(refused(LOG("-l", ""), "log-path must not be empty") &&
               refused(LOG("-l", ":"), "log-path must not be empty"),
           "empty");
        ok(refused(LOG("-l", "/x", "--log-tag", "t"), "k8s-file doesn't support --log-tag"), "a tag needs the journal");
        ok(refused(LOG("-l", "/x", "--log-label", "A=b"), "k8s-file doesn't support --log-label"),
           "and so does a label");
        ok(LOG("-l", "/x", "-l", "journald", "--log-tag", "t", "--log-label", "A_1=b") == 0, "which takes both");
        ok(LOG("-l", "journald", "--log-label", "=b") < 0 && LOG("-l", "journald", "--log-label", "A") < 0 &&
               LOG("-l", "journald", "--log-label", "A=b=c") < 0 && LOG("-l", "journald", "--log-label", "a=b") < 0,
           "malformed labels");
        PARSE("-c", "short", "-l", "journald");
        ok(refused(pc_args_log(&a, &log, text), "Container ID must be longer than 12 characters"),
           "a short id for the journal");
}

static void help(void) {
        const char *name;
        char letter;
        int n = 0, hidden = 0;
        for (const char *h; (h = pc_args_help(n, &name, &letter)); n++)
                hidden += *h == '\0';
        ok(n == 47 && hidden == 2 && !pc_args_help(-1, &name, &letter), "help has every option but the two old names");
}

int main(void) {
        forms();
        all();
        asked_for_help();
        refusals();
        checks();
        logs();
        help();
        return done_testing();
}
