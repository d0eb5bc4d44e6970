#include "monitor/args.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum kind { FLAG, STRING, LIST, INT, INT64 };

struct option {
        const char *name;
        char letter;
        enum kind kind;
        size_t offset;
        const char *help; /* NULL: accepted, not shown */
};

#define AT(member) offsetof(struct pc_args, member)

static const struct option options[] = {
    {"api-version", 0, FLAG, AT(api_version), "Newer sync pipe messages"},
    {"bundle", 'b', STRING, AT(bundle), "OCI bundle directory"},
    {"cid", 'c', STRING, AT(cid), "Container id"},
    {"conmon-pidfile", 'P', STRING, AT(conmon_pidfile), "File for the monitor's own pid"},
    {"container-pidfile", 'p', STRING, AT(container_pidfile), "File in which the runtime leaves the container's pid"},
    {"cuuid", 'u', STRING, AT(cuuid), "Name of the attach directory"},
    {"exec", 'e', FLAG, AT(exec), "Run a process in a running container"},
    {"exec-attach", 0, FLAG, AT(exec_attach), "Wait for an attached client before the exec"},
    {"exec-process-spec", 0, STRING, AT(exec_process_spec), "OCI process as JSON for the exec"},
    {"exit-command", 0, STRING, AT(exit_command), "Program run when the container has ended"},
    {"exit-command-arg", 0, LIST, AT(exit_args), "Its argument; repeatable"},
    {"exit-delay", 0, INT, AT(exit_delay), "Seconds before the exit command"},
    {"exit-dir", 0, STRING, AT(exit_dir), "Directory for exit files"},
    {"full-attach", 0, FLAG, AT(full_attach), "Attach socket in the bundle itself; ignores --socket-dir-path"},
    {"help", 'h', FLAG, AT(help), "Show this and exit"},
    {"leave-stdin-open", 0, FLAG, AT(leave_stdin_open), "Detaching does not close the container's stdin"},
    {"log-allowlist-dir", 0, LIST, AT(log_allow), "Directory that log rotation is confined to; repeatable"},
    {"log-global-size-max", 0, INT64, AT(log_total_max), "Bytes of log after which output is dropped"},
    {"log-label", 0, LIST, AT(log_labels), "KEY=value for journal entries; repeatable"},
    {"log-level", 0, STRING, AT(log_level), "error, warn, info, debug or trace"},
    {"log-max-files", 0, INT, AT(log_max_files), "Rotated log files to keep (default 1)"},
    {"log-path", 'l', LIST, AT(log_paths), "[driver:]path of the log; repeatable"},
    {"log-rotate", 0, FLAG, AT(log_rotate), "Keep full log files instead of replacing them"},
    {"log-size-max", 0, INT64, AT(log_size_max), "Bytes per log file"},
    {"log-tag", 0, STRING, AT(log_tag), "CONTAINER_TAG of journal entries"},
    {"name", 'n', STRING, AT(name), "Container name"},
    {"no-container-partial-message", 0, FLAG, AT(no_partial_field), "No CONTAINER_PARTIAL_MESSAGE in the journal"},
    {"no-new-keyring", 0, FLAG, AT(no_new_keyring), "Passed to the runtime"},
    {"no-pivot", 0, FLAG, AT(no_pivot), "Passed to the runtime"},
    {"no-sync-log", 0, FLAG, AT(no_sync_log), "Do not fsync the log at the end"},
    {"persist-dir", '0', STRING, AT(persist_dir), "Directory for lasting exit and oom files"},
    {"pidfile", 0, STRING, AT(container_pidfile), NULL},
    {"replace-listen-pid", 0, FLAG, AT(replace_listen_pid), "Set LISTEN_PID to the runtime's pid"},
    {"restore", 0, STRING, AT(restore), "Restore from this checkpoint"},
    {"restore-arg", 0, LIST, AT(runtime_opts), NULL},
    {"runtime", 'r', STRING, AT(runtime), "OCI runtime program"},
    {"runtime-arg", 0, LIST, AT(runtime_args), "Argument before the runtime's command; repeatable"},
    {"runtime-opt", 0, LIST, AT(runtime_opts), "Argument after the runtime's command; repeatable"},
    {"sdnotify-socket", 0, STRING, AT(sdnotify_socket), "Relay the container's notify messages to this socket"},
    {"socket-dir-path", 0, STRING, AT(socket_dir), "Directory of attach sockets"},
    {"stdin", 'i', FLAG, AT(stdin_pipe), "Give the container a stdin pipe"},
    {"sync", 0, FLAG, AT(sync), "Stay the caller's child"},
    {"syslog", 0, FLAG, AT(syslog), "Own messages to syslog as well"},
    {"systemd-cgroup", 's', FLAG, AT(systemd_cgroup), "Passed to the runtime"},
    {"terminal", 't', FLAG, AT(terminal), "Give the container a terminal"},
    {"timeout", 'T', INT, AT(timeout), "Seconds after which the process is killed"},
    {"version", 0, FLAG, AT(version), "Print the version and exit"},
};
#define NOPTIONS ((int) (sizeof options / sizeof options[0]))

static void say(char *out, const char *a, const char *b, const char *c, const char *d) {
        const char *part[] = {a, b, c, d};
        size_t at = 0;
        for (int i = 0; i < 4; i++)
                for (const char *p = part[i]; p && *p && at < PC_ARGS_TEXT - 1; p++)
                        out[at++] = *p;
        out[at] = '\0';
}

static int fail(char *text, const char *a, const char *b, const char *c, const char *d) {
        say(text, a, b, c, d);
        return -EINVAL;
}

/* One list entry while parsing: which list, in the order of the command line. */
struct pending {
        struct pc_args *a;
        const char **pool;
        int n;
};

static int store(struct pending *to, const struct option *o, const char *shown, const char *value, char *text) {
        void *at = (char *) to->a + o->offset;
        switch (o->kind) {
        case FLAG:
                *(bool *) at = true;
                return 0;
        case STRING:
                *(const char **) at = value;
                return 0;
        case LIST: {
                /* Lists share the pool back to back; a value for an earlier list moves the later ones by one. */
                struct pc_strings *l = at;
                const char **end = to->pool + to->n, **place = l->n ? l->v + l->n : end;
                memmove(place + 1, place, (size_t) (end - place) * sizeof *place);
                *place = value;
                to->n++;
                if (l->n == 0)
                        l->v = place;
                for (int i = 0; i < NOPTIONS; i++) {
                        struct pc_strings *m = (void *) ((char *) to->a + options[i].offset);
                        if (options[i].kind == LIST && options[i].help && m != l && m->n > 0 && m->v >= place)
                                m->v++;
                }
                l->n++;
                return 0;
        }
        case INT:
        case INT64: {
                char *end;
                errno = 0;
                long long v = strtoll(value, &end, 0);
                if (*value == '\0' || *end != '\0')
                        return fail(text, "Cannot parse integer value “", value, "” for ", shown);
                if (errno == ERANGE || (o->kind == INT && (v < INT_MIN || v > INT_MAX)))
                        return fail(text, "Integer value “", value, "” for ", shown);
                if (o->kind == INT)
                        *(int *) at = (int) v;
                else
                        *(int64_t *) at = v;
                return 0;
        }
        }
        return 0;
}

static int out_of_range(int r, char *text) {
        if (r < 0 && strncmp(text, "Integer", 7) == 0) {
                size_t n = strlen(text);
                static const char tail[] = " out of range";
                if (n + sizeof tail <= PC_ARGS_TEXT)
                        memcpy(text + n, tail, sizeof tail);
        }
        return r;
}

/* Help is an answer at once, whatever comes behind it. */
static bool asks_for_help(const char *word) {
        return strcmp(word, "--help") == 0 || strcmp(word, "--help-all") == 0;
}

static int parse_long(struct pending *to, int argc, char **argv, int *i, char *text) {
        const char *arg = argv[*i] + 2, *eq = strchr(arg, '=');
        size_t n = eq ? (size_t) (eq - arg) : strlen(arg);
        for (int k = 0; k < NOPTIONS; k++) {
                const struct option *o = &options[k];
                if (strlen(o->name) != n || memcmp(o->name, arg, n) != 0 || o->offset == AT(help))
                        continue;
                char shown[64] = "--";
                memcpy(shown + 2, o->name, n + 1);
                if (o->kind == FLAG || eq) /* a flag's "=value" is passed over, as GLib does */
                        return out_of_range(store(to, o, shown, eq ? eq + 1 : "", text), text);
                if (*i + 1 >= argc)
                        return fail(text, "Missing argument for ", shown, NULL, NULL);
                return out_of_range(store(to, o, shown, argv[++*i], text), text);
        }
        return fail(text, "Unknown option ", argv[*i], NULL, NULL);
}

static int parse_short(struct pending *to, int argc, char **argv, int *i, char *text) {
        const char *bundle = argv[*i];
        bool taken = false; /* the next argument already is a value */
        for (const char *p = bundle + 1; *p; p++) {
                const struct option *o = NULL;
                if (*p == 'h' || *p == '?') {
                        to->a->help = true;
                        return 0;
                }
                for (int k = 0; k < NOPTIONS && !o; k++)
                        if (options[k].letter == *p)
                                o = &options[k];
                char shown[3] = {'-', *p, '\0'};
                if (!o)
                        return fail(text, "Unknown option ", bundle, NULL, NULL);
                const char *value = "";
                if (o->kind != FLAG) {
                        if (taken)
                                return fail(text, "Error parsing option ", shown, NULL, NULL);
                        if (*i + 1 >= argc)
                                return fail(text, "Missing argument for ", shown, NULL, NULL);
                        value = argv[*i + 1];
                        taken = true;
                }
                int r = out_of_range(store(to, o, shown, value, text), text);
                if (r < 0)
                        return r;
        }
        *i += taken;
        return 0;
}

int pc_args_parse(int argc, char **argv, const char **pool, struct pc_args *ret, char text[PC_ARGS_TEXT]) {
        struct pc_args a = {.log_size_max = -1, .log_total_max = -1, .log_max_files = 1};
        struct pending to = {&a, pool, 0};
        for (int i = 1; i < argc && !a.help; i++) {
                if (strcmp(argv[i], "--") == 0)
                        break;
                int r = 0;
                if (asks_for_help(argv[i]))
                        a.help = true;
                else if (argv[i][0] == '-' && argv[i][1] == '-')
                        r = parse_long(&to, argc, argv, &i, text);
                else if (argv[i][0] == '-' && argv[i][1] != '\0')
                        r = parse_short(&to, argc, argv, &i, text);
                if (r < 0)
                        return r;
        }
        *ret = a;
        return 0;
}

static int check_labels(const struct pc_args *a, char *text) {
        for (int i = 0; i < a->log_labels.n; i++) {
                const char *l = a->log_labels.v[i], *eq = strchr(l, '=');
                if (eq == l)
                        return fail(text, "Container labels must be in format LABEL=VALUE (no LABEL present in '", l,
                                    "')", NULL);
                if (!eq || strchr(eq + 1, '='))
                        return fail(
                            text,
                            "Container labels must be in format LABEL=VALUE (none or more than one '=' present in '", l,
                            "')", NULL);
                for (const char *p = l; p < eq; p++)
                        if (!((*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || *p == '_'))
                                return fail(text,
                                            "Container label names must contain only uppercase letters, numbers and "
                                            "underscore (in '",
                                            l, "')", NULL);
        }
        return 0;
}

int pc_args_check(const struct pc_args *a, char text[PC_ARGS_TEXT]) {
        enum pc_level level;
        if (a->log_level && pc_args_level(a->log_level, &level) < 0)
                return fail(text, "No such log level ", a->log_level, NULL, NULL);
        if (a->restore && a->exec)
                return fail(text, "Cannot use 'exec' and 'restore' at the same time", NULL, NULL, NULL);
        if (!a->exec && a->exec_attach)
                return fail(text, "Attach can only be specified with exec", NULL, NULL, NULL);
        if (!a->api_version && a->exec_attach)
                return fail(text, "Attach can only be specified for a non-legacy exec session", NULL, NULL, NULL);
        if (!a->cuuid && (!a->exec || a->api_version))
                return fail(text, "Container UUID not provided. Use --cuuid", NULL, NULL, NULL);
        if (!a->runtime)
                return fail(text, "Runtime path not provided. Use --runtime", NULL, NULL, NULL);
        return 0;
}

int pc_args_check_job(const struct pc_args *a, char text[PC_ARGS_TEXT]) {
        if (a->exec && !a->exec_process_spec)
                return fail(text, "Exec process spec path not provided. Use --exec-process-spec", NULL, NULL, NULL);
        if (a->exit_delay < 0)
                return fail(text, "Delay before invoking exit command must be greater than or equal to 0", NULL, NULL,
                            NULL);
        return 0;
}

/* One --log-path value: "driver", "driver:path", "path", ":path". */
static int choose(const char *value, struct pc_log_choice *c, char *text) {
        const char *colon = strchr(value, ':');
        const char *path = colon ? colon + 1 : NULL;
        size_t n = colon ? (size_t) (colon - value) : strlen(value);
        if (n == 0 && (!path || *path == '\0'))
                return fail(text, "log-path must not be empty", NULL, NULL, NULL);
#define DRIVER(word) (n == sizeof word - 1 && memcmp(value, word, n) == 0)
        if (DRIVER("off") || DRIVER("null") || DRIVER("none"))
                return 0;
        if (DRIVER("passthrough")) {
                c->passthrough = true;
                return 0;
        }
        if (DRIVER("journald")) {
                c->journal = true;
                return 0;
        }
        if (DRIVER("k8s-file") && (!path || *path == '\0'))
                return fail(text, "k8s-file requires a filename", NULL, NULL, NULL);
        if (!colon || n == 0 || DRIVER("k8s-file")) {
                c->file = true;
                c->path = colon ? path : value;
                return 0;
        }
#undef DRIVER
        say(text, "No such log driver ", value, NULL, NULL);
        text[strlen("No such log driver ") + (n < PC_ARGS_TEXT - 32 ? n : PC_ARGS_TEXT - 32)] = '\0';
        return -EINVAL;
}

int pc_args_log(const struct pc_args *a, struct pc_log_choice *ret, char text[PC_ARGS_TEXT]) {
        struct pc_log_choice c = {0};
        if (a->log_paths.n == 0)
                return fail(text, "Log driver not provided. Use --log-path", NULL, NULL, NULL);
        for (int i = 0; i < a->log_paths.n; i++) {
                int r = choose(a->log_paths.v[i], &c, text);
                if (r < 0)
                        return r;
        }
        if (c.file && !c.journal && a->log_tag)
                return fail(text, "k8s-file doesn't support --log-tag", NULL, NULL, NULL);
        if (c.file && !c.journal && a->log_labels.n)
                return fail(text, "k8s-file doesn't support --log-label", NULL, NULL, NULL);
        if (c.journal && strlen(a->cid) <= 12)
                return fail(text, "Container ID must be longer than 12 characters", NULL, NULL, NULL);
        int r = c.journal ? check_labels(a, text) : 0;
        if (r < 0)
                return r;
        *ret = c;
        return 0;
}

int pc_args_level(const char *name, enum pc_level *ret) {
        static const struct {
                const char *name;
                enum pc_level level;
        } levels[] = {{"error", PC_LEVEL_ERROR}, {"fatal", PC_LEVEL_ERROR},  {"panic", PC_LEVEL_ERROR},
                      {"warn", PC_LEVEL_WARN},   {"warning", PC_LEVEL_WARN}, {"info", PC_LEVEL_INFO},
                      {"debug", PC_LEVEL_DEBUG}, {"trace", PC_LEVEL_TRACE}};
        for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
                if (strcasecmp(name, levels[i].name) == 0) {
                        *ret = levels[i].level;
                        return 0;
                }
        return -EINVAL;
}

const char *pc_args_help(int index, const char **ret_name, char *ret_letter) {
        if (index < 0 || index >= NOPTIONS)
                return NULL;
        *ret_name = options[index].name;
        *ret_letter = options[index].letter;
        return options[index].help ? options[index].help : "";
}
