// SRC: csrc/monitor/args.c
/* The monitor's command line from any words: what is kept points into the words given, lists are whole and in order,
 * a refusal is one terminated line. Words are separated by zero bytes. */
#include "monitor/args.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *from, *to; /* the words */

static void inside(const char *p) {
        if (p && (p < from || p >= to))
                abort();
}

static int in_list(const struct pc_strings *l) {
        for (int i = 0; i < l->n; i++) {
                inside(l->v[i]);
                if (!l->v[i] || (i > 0 && l->v[i] <= l->v[i - 1])) /* later words lie behind */
                        abort();
        }
        return l->n;
}

static void one_line(const char *text) {
        if (strnlen(text, PC_ARGS_TEXT) == PC_ARGS_TEXT || !*text)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        enum { WORDS = 64 };
        char *words = malloc(size + 2), *argv[WORDS + 2] = {(char *) "conmon"}, text[PC_ARGS_TEXT];
        if (!words)
                abort();
        memcpy(words, data, size);
        words[size] = words[size + 1] = '\0';
        from = words;
        to = words + size + 2;
        int argc = 1;
        for (size_t at = 0; at < size && argc <= WORDS; at += strlen(words + at) + 1)
                argv[argc++] = words + at;
        const char **pool = malloc((size_t) argc * sizeof *pool); /* exact */
        struct pc_args a;
        struct pc_log_choice log;
        if (!pool)
                abort();
        if (pc_args_parse(argc, argv, pool, &a, text) < 0) {
                one_line(text);
        } else {
                const struct pc_strings *lists[] = {&a.exit_args, &a.log_allow,    &a.log_labels,
                                                    &a.log_paths, &a.runtime_args, &a.runtime_opts};
                const char *strings[] = {a.bundle,
                                         a.cid,
                                         a.conmon_pidfile,
                                         a.container_pidfile,
                                         a.cuuid,
                                         a.log_level,
                                         a.exec_process_spec,
                                         a.exit_command,
                                         a.exit_dir,
                                         a.log_tag,
                                         a.name,
                                         a.persist_dir,
                                         a.restore,
                                         a.runtime,
                                         a.sdnotify_socket,
                                         a.socket_dir};
                int n = 0;
                for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
                        n += in_list(lists[i]);
                for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
                        inside(strings[i]);
                if (n >= argc)
                        abort();
                if (pc_args_check(&a, text) < 0 || pc_args_check_job(&a, text) < 0)
                        one_line(text);
                else if (!a.cid) /* main() has refused it by now */
                        inside(a.cid);
                else if (pc_args_log(&a, &log, text) < 0)
                        one_line(text);
                else
                        inside(log.path);
        }
        free(pool);
        free(words);
        return 0;
}
