// SRC: csrc/nsexec/args.c
/* nsexec's command line from any words: what is kept points into the words, the command is what follows the options, no
 * word of it is taken for an option, and a second look says the same. Words are separated by zero bytes. */
#include "nsexec/args.h"
#include <getopt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good) {
        if (!good)
                abort();
}

/* A prefix that names one option alone is that option, as getopt_long has it. */
static bool is_option(const char *word) {
        return word[0] == '-' && word[1] != '\0';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        enum { WORDS = 64 };
        char *argv[WORDS + 2] = {(char *) "pycrio-nsexec"}, *before[WORDS + 2], *words = malloc(size + 2);
        if (!words)
                abort();
        memcpy(words, data, size);
        words[size] = words[size + 1] = '\0';
        int argc = 1;
        for (size_t at = 0; at < size && argc <= WORDS; at += strlen(words + at) + 1)
                argv[argc++] = words + at;
        memcpy(before, argv, sizeof before);

        struct nsx_request q, again;
        opterr = 0;
        enum nsx_verdict v = nsx_parse(argc, argv, &q);
        check(memcmp(before, argv, sizeof before) == 0);
        for (int k = 0; k < NSX_KINDS; k++)
                check(!q.paths[k] || (q.paths[k] >= words && q.paths[k] < words + size + 2));
        check(!q.root || (q.root >= words && q.root < words + size + 2));
        check(!q.cwd || (q.cwd >= words && q.cwd < words + size + 2));
        if (v == NSX_RUN || v == NSX_NOTHING_TO_DO) {
                int first = (int) (q.command - argv);
                check(first >= 1 && first <= argc);
                check((v == NSX_RUN) == (first < argc || q.lo_up));
                if (first < argc) /* the first word that is no option, or the one behind "--" */
                        check(!is_option(argv[first]) || strcmp(argv[first - 1], "--") == 0);
                int options = 0; /* none is left out: each kept value stands before the command */
                for (int k = 0; k < NSX_KINDS; k++)
                        options += q.paths[k] != NULL;
                check(options + (q.root != NULL) + (q.cwd != NULL) + q.lo_up <= first - 1);
        }
        check(nsx_parse(argc, argv, &again) == v && memcmp(&again, &q, sizeof q) == 0);
        free(words);
        return 0;
}
