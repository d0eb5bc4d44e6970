// SRC: csrc/mounts/*.c
// LIBS: -DPC_FAULT=1
/* The mounts unit: what is mounted, by the new calls and by mount(2), failures at every step, paths inside roots. */
#include "common/fd.h"
#include "fault.h"
#include "mounts/api.h"
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>

static char dir[] = "/tmp/test_mounts.XXXXXX";
static char target[128], upper[128], work[128], source[128];

static void say(const struct pc_err *e) {
        printf("# %s %s: %s\n", e->step, e->path, strerror(e->code));
}

static const char *at(const char *name) {
        static char text[8][4096];
        static int i;
        i = (i + 1) % 8;
        snprintf(text[i], sizeof text[i], "%s/%s", dir, name);
        return text[i];
}

static bool touch(const char *path) {
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        return fd >= 0 && close(fd) == 0;
}

static bool exists(const char *path) {
        struct stat st;
        return lstat(path, &st) == 0;
}

/* mountinfo fields of the topmost mount at path: options, optional fields and file system, in one string. */
static const char *shown(const char *path) {
        static char found[65536];
        char *line = NULL;
        size_t room = 0;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        found[0] = '\0';
        while (f && getline(&line, &room, f) > 0) {
                char where[512], rest[256];
                if (sscanf(line, "%*d %*d %*s %*s %511s %255[^\n]", where, rest) == 2 && strcmp(where, path) == 0)
                        snprintf(found, sizeof found, "%s", line);
        }
        free(line);
        if (f)
                fclose(f);
        return found;
}

static struct pc_overlay plain_overlay(const char *const *lowers, size_t n) {
        return (struct pc_overlay){.lowers = lowers, .n_lowers = n, .upper = upper, .work = work, .target = target};
}

/* Layer directories with names of every kind. Number i holds the file f<i>. */
static char names[PC_OVERLAY_LOWERS][1024];
static const char *lowers[PC_OVERLAY_LOWERS];

static void make_layers(void) {
        char longer[240];
        memset(longer, 'n', sizeof longer - 1);
        longer[sizeof longer - 1] = '\0';
        for (int i = 0; i < PC_OVERLAY_LOWERS; i++) {
                static const char *const odd[] = {"a:b", "c,d", "e\\f", "g h", "i\"j", "k=l", "\xff\xfe"};
                if (i < 7)
                        snprintf(names[i], sizeof names[i], "%s/%d%s", dir, i, odd[i]);
                else if (i < 10)
                        snprintf(names[i], sizeof names[i], "%s/%d%s", dir, i, longer);
                else
                        snprintf(names[i], sizeof names[i], "%s/l%d", dir, i);
                lowers[i] = names[i];
                char file[1100];
                snprintf(file, sizeof file, "%s/f%d", names[i], i);
                if (mkdir(names[i], 0755) < 0 || !touch(file))
                        printf("# layer %d: %s\n", i, strerror(errno));
        }
}

static bool shows_all(int from, int n) {
        char file[256];
        bool all = entries(target) == n;
        for (int i = from; i < from + n; i++) {
                snprintf(file, sizeof file, "%s/f%d", target, i);
                all = all && exists(file);
        }
        return all;
}

/* Both ways: as this kernel does it, and with the newer calls hidden. */
static void overlays(const char *how, int code) {
        struct world before = look(dir);
        struct pc_overlay s = plain_overlay(lowers, PC_OVERLAY_LOWERS);
        struct pc_err err = {0};
        struct pc_mount_log log;
        char text[128];
        fault_arm(0, how, code);

        int r = pc_mount_overlay(&s, &log, &err);
        if (r < 0)
                say(&err);
        snprintf(text, sizeof text, "overlay of 500 layers with odd and long names (%s hidden)", how ? how : "nothing");
        ok(r == 0 && shows_all(0, PC_OVERLAY_LOWERS), text);
        const char *kind = "";
        ok(pc_mount_propagation_of(target, &kind, NULL) == 0 && strcmp(kind, "private") == 0, "... is private");
        ok(touch(at("t/new")) && exists(at("u/new")) && unlink(at("t/new")) == 0, "... and written to its upper");
        ok(pc_umount(target, true, NULL) == 1 && pc_umount(target, true, NULL) == 0, "... unmounted once");

        static const char *const options[] = {"volatile", "nodev", "noatime", "metacopy=on"};
        s = plain_overlay(lowers + 10, 3);
        s.options = options;
        s.n_options = 4;
        r = pc_mount_overlay(&s, &log, &err);
        if (r < 0)
                say(&err);
        const char *info = shown(target);
        ok(r == 0 && strstr(info, "volatile") && strstr(info, "nodev") && strstr(info, "noatime") &&
               strstr(info, "metacopy=on"),
           "... options of the file system and of the mount");
        pc_umount(target, false, NULL);
        ok(system("rm -rf \"$WORK\"/work") == 0, "... the mark of a volatile overlay is removed");

        s = plain_overlay(lowers, 2);
        s.upper = s.work = NULL;
        ok(pc_mount_overlay(&s, &log, &err) == 0 && !touch(at("t/x")) && errno == EROFS,
           "... without upper: read-only");
        pc_umount(target, false, NULL);
        static const char *const ro[] = {"ro"};
        s = plain_overlay(lowers, 2);
        s.options = ro;
        s.n_options = 1;
        ok(pc_mount_overlay(&s, &log, &err) == 0 && !touch(at("t/x")) && errno == EROFS,
           "... ro with upper: read-only");
        pc_umount(target, false, NULL);
        fault_arm(0, NULL, 0);
        ok(same(before, look(dir)), "... nothing stays");
}

static void refused(void) {
        static const char *const bogus[] = {"bogus"}, *const value[] = {"index=maybe"};
        const char *one[] = {lowers[10], "/nonesuch"};
        struct pc_err err = {0};
        struct pc_mount_log log;
        struct world before = look(dir);
        struct pc_overlay s = plain_overlay(one, 2);
        ok(pc_mount_overlay(&s, &log, &err) == -ENOENT && strcmp(err.path, "/nonesuch") == 0,
           "a missing layer is named");
        s = plain_overlay(lowers, 3);
        s.options = bogus;
        s.n_options = 1;
        ok(pc_mount_overlay(&s, &log, &err) == -EINVAL && strcmp(err.path, "bogus") == 0 && strstr(log.text, "bogus"),
           "an unknown option is named, with the kernel's words");
        s.options = value;
        ok(pc_mount_overlay(&s, &log, &err) == -EINVAL && strcmp(err.path, "index=maybe") == 0, "so is a wrong value");
        s = plain_overlay(lowers, 3);
        s.work = "/nonesuch/work";
        ok(pc_mount_overlay(&s, &log, &err) == -ENOENT && strcmp(err.path, "/nonesuch/work") == 0, "a missing work");
        s = plain_overlay(lowers, 3);
        s.target = "/nonesuch";
        ok(pc_mount_overlay(&s, &log, &err) == -ENOENT && strcmp(err.path, "/nonesuch") == 0, "a missing target");
        s = plain_overlay(lowers, 3);
        s.work = "/dev/shm";
        ok(pc_mount_overlay(&s, &log, &err) == -EINVAL && strcmp(err.path, target) == 0, "work on another file system");
        s = plain_overlay(lowers, 0);
        ok(pc_mount_overlay(&s, &log, &err) == -EINVAL, "no layer");
        s = plain_overlay(lowers, PC_OVERLAY_LOWERS + 1);
        ok(pc_mount_overlay(&s, &log, &err) == -E2BIG, "more layers than the kernel takes");
        s = plain_overlay(lowers, 1);
        s.upper = s.work = NULL;
        ok(pc_mount_overlay(&s, &log, &err) == -EINVAL, "a single read-only layer");
        ok(same(before, look(dir)), "nothing stays of what was refused");
}

static int do_overlay(struct pc_err *err) {
        struct pc_overlay s = plain_overlay(lowers, 7);
        static const char *const options[] = {"index=off", "nosuid"};
        s.options = options;
        s.n_options = 2;
        return pc_mount_overlay(&s, NULL, err);
}
static int do_bind(struct pc_err *err) {
        static const char *const attrs[] = {"nosuid", "rnodev"};
        struct pc_bind s = {.source = source,
                            .target = target,
                            .recursive = true,
                            .readonly = true,
                            .userns = -1,
                            .attrs = attrs,
                            .n_attrs = 2,
                            .propagation = "rslave"};
        return pc_mount_bind(&s, err);
}
static int do_plain_bind(struct pc_err *err) {
        static const char *const attrs[] = {"nosuid"};
        struct pc_bind s = {.source = source,
                            .target = target,
                            .readonly = true,
                            .userns = -1,
                            .attrs = attrs,
                            .n_attrs = 1,
                            .propagation = "private"};
        return pc_mount_bind(&s, err);
}
static int do_tmpfs(struct pc_err *err) {
        static const char *const attrs[] = {"nosuid", "noexec"};
        struct pc_tmpfs s = {.target = target, .size = 1 << 16, .mode = 01777, .attrs = attrs, .n_attrs = 2};
        return pc_mount_tmpfs(&s, NULL, err);
}

/* hidden: also without this call, so that the older way is walked as well. */
static void every_step(const char *text, int (*mount_it)(struct pc_err *), const char *hidden) {
        struct world before = look(dir);
        bool clean = true, told = true;
        int n = 1, failures = 0;
        for (; n < 200 && clean; n++) {
                struct pc_err err = {0};
                fault_arm(n, hidden, ENOSYS);
                if (!hidden)
                        fault_code = EIO;
                int r = mount_it(&err);
                bool hit = fault_seen >= n;
                fault_arm(0, NULL, 0);
                if (r >= 0 && pc_umount(target, true, NULL) != 1)
                        clean = false;
                if (r < 0) {
                        failures++;
                        told = told && err.code == -r && err.step && err.step[0];
                }
                clean = clean && same(before, look(dir));
                if (!hit)
                        break;
        }
        printf("# %d calls, %d of them fatal\n", n - 1, failures);
        ok(clean && told && failures > 1 && n < 200, text);
}

static void binds(void) {
        struct world before = look(dir);
        struct pc_err err = {0};
        ok(do_bind(&err) == 0 && strstr(shown(target), " ro,nosuid,nodev") && exists(at("t/inside")),
           "bind with attributes");
        ok(!touch(at("t/x")) && errno == EROFS, "... is read-only");
        pc_umount(target, true, NULL);

        /* A mount below: "ro" leaves it writable, "rro" does not. */
        struct pc_tmpfs tmp = {.target = at("s/below"), .mode = 0755};
        char below[128];
        snprintf(below, sizeof below, "%s", at("s/below"));
        mkdir(below, 0755);
        tmp.target = below;
        ok(pc_mount_tmpfs(&tmp, NULL, &err) == 0, "a mount below the source");
        struct pc_bind s = {.source = source, .target = target, .recursive = true, .readonly = true, .userns = -1};
        ok(pc_mount_bind(&s, &err) == 0 && touch(at("t/below/x")), "ro is about the top");
        pc_umount(target, true, NULL);
        static const char *const rro[] = {"rro"}, *const bad[] = {"ronly"};
        s.attrs = rro;
        s.n_attrs = 1;
        ok(pc_mount_bind(&s, &err) == 0 && !touch(at("t/below/y")) && errno == EROFS, "rro is about all");
        pc_umount(target, true, NULL);
        s.recursive = false;
        ok(pc_mount_bind(&s, &err) == 0 && !exists(at("t/below/x")), "not recursive: without what is below");
        pc_umount(target, true, NULL);
        pc_umount(below, true, NULL);
        rmdir(below);
        s.attrs = bad;
        ok(pc_mount_bind(&s, &err) == -EINVAL && strcmp(err.path, "ronly") == 0, "an unknown attribute is named");
        s = (struct pc_bind){.source = "/nonesuch", .target = target, .userns = -1};
        ok(pc_mount_bind(&s, &err) == -ENOENT && strcmp(err.path, "/nonesuch") == 0, "a missing source is named");
        s = (struct pc_bind){.source = source, .target = target, .userns = -1, .propagation = "shred"};
        ok(pc_mount_bind(&s, &err) == -EINVAL, "an unknown propagation");
        s = (struct pc_bind){.source = at("s/inside"), .target = target, .userns = -1};
        int r = pc_mount_bind(&s, &err);
        ok((r == -ENOTDIR || r == -EINVAL) && strcmp(err.path, target) == 0, "a file on a directory");

        static const char *const kinds[] = {"shared", "slave", "private", "unbindable"};
        for (int i = 0; i < 4; i++) {
                const char *kind = "";
                char text[64];
                s = (struct pc_bind){.source = source, .target = target, .userns = -1, .propagation = "shared"};
                r = pc_mount_bind(&s, &err);
                if (i == 1) { /* a slave needs a master: a second bind is the shared one's peer */
                        struct pc_bind peer = {.source = target, .target = at("t2"), .userns = -1};
                        r = r < 0 ? r : pc_mount_bind(&peer, &err);
                }
                r = r < 0 ? r : pc_mount_propagation(target, kinds[i], i % 2, &err);
                snprintf(text, sizeof text, "propagation %s", kinds[i]);
                bool good = pc_mount_propagation_of(target, &kind, NULL) == 0 && strcmp(kind, kinds[i]) == 0;
                kind = "";
                fault_arm(0, "statmount", ENOSYS);
                good = good && pc_mount_propagation_of(target, &kind, NULL) == 0 && strcmp(kind, kinds[i]) == 0;
                fault_arm(0, NULL, 0);
                ok(r == 0 && good, text);
                pc_umount(target, true, NULL);
                pc_umount(at("t2"), true, NULL);
        }
        ok(same(before, look(dir)), "nothing stays");
}

static void questions(void) {
        uint64_t one = 0, two = 0;
        ok(pc_mount_is(target, NULL) == 0 && pc_mount_is("/nonesuch", NULL) == 0 && pc_mount_is("/proc", NULL) == 1,
           "what a mount is");
        ok(pc_mount_id(target, &one, NULL) == 0 && do_tmpfs(NULL) == 0 && pc_mount_id(target, &two, NULL) == 0 &&
               one != two,
           "ids of mounts");
        struct stat st;
        ok(stat(target, &st) == 0 && st.st_mode == (S_IFDIR | 01777) && strstr(shown(target), "size=64k"),
           "tmpfs as asked");
        ok(symlink(target, at("link")) == 0 && pc_umount(at("link"), true, NULL) == 0 && pc_mount_is(target, NULL) == 1,
           "umount does not follow a link");
        unlink(at("link"));
        int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct pc_err err = {0};
        ok(pc_umount(target, false, &err) == -EBUSY && strcmp(err.path, target) == 0, "busy, when not detached");
        close(fd);
        ok(pc_umount(target, false, NULL) == 1, "no longer busy");
        uint64_t features = 0;
        struct world before = look(dir);
        ok(pc_mount_probe(dir, -1, &features, &err) == 0 && features >> PC_MF_OVERLAY & 1 &&
               features >> PC_MF_MOUNT_API & 1,
           "probe finds overlay");
        ok(!(features >> PC_MF_IDMAP & 1), "... and no id maps without a user namespace");
        fault_arm(0, "fsopen", ENOSYS);
        ok(pc_mount_probe(dir, -1, &features, &err) == 0 && features >> PC_MF_OVERLAY & 1 &&
               !(features >> PC_MF_MOUNT_API & 1),
           "... also by mount(2)");
        fault_arm(0, "mount", EPERM);
        ok(pc_mount_probe(dir, -1, &features, &err) == -EPERM, "... or says why it cannot");
        fault_arm(0, NULL, 0);
        ok(pc_mount_probe("/nonesuch", -1, &features, &err) == -ENOENT, "... or where");
        ok(same(before, look(dir)), "... and leaves nothing");
}

static void in_roots(void) {
        char out[4096], tiny[8], deep[4096] = "";
        struct pc_err err = {0};
        struct stat st;
        const char *root = source;
        ok(symlink("/../../../etc", at("s/up")) == 0 && symlink("/none/such", at("s/dangling")) == 0 &&
               symlink("loop", at("s/loop")) == 0 && symlink("a/../b", at("s/rel")) == 0,
           "links that lead out, nowhere, to themselves");
        int fd = -1;
        ok(pc_open_in(root, "up/passwd", O_RDONLY, 0, &fd, &err) == -ENOENT, "a link up stays inside");
        ok(pc_open_in(root, "/../../inside", O_RDONLY, 0, &fd, &err) == 0, "so do dots");
        pc_closep(&fd);
        ok(pc_open_in(root, "loop", O_RDONLY, 0, &fd, &err) == -ELOOP && strcmp(err.path, "loop") == 0,
           "a loop is an error");
        ok(pc_open_in("/nonesuch", "x", O_RDONLY, 0, &fd, &err) == -ENOENT && strcmp(err.path, "/nonesuch") == 0,
           "no root");
        ok(pc_mkdirs_in(root, "up/ssh", 0750, 12, 34, out, sizeof out, &err) == 0 && strcmp(out, at("s/etc/ssh")) == 0,
           "directories behind a link up are made inside");
        ok(stat(out, &st) == 0 && st.st_mode == (S_IFDIR | 0750) && st.st_uid == 12 && st.st_gid == 34,
           "mode and owner");
        ok(pc_mkdirs_in(root, "dangling/x", 02711, 0, 0, out, sizeof out, &err) == 0 &&
               strcmp(out, at("s/none/such/x")) == 0,
           "a dangling link is filled inside");
        ok(stat(out, &st) == 0 && st.st_mode == (S_IFDIR | 02711), "setgid is kept whatever the umask");
        ok(pc_mkdirs_in(root, "rel/c", 0755, 0, 0, out, sizeof out, &err) == 0 && strcmp(out, at("s/b/c")) == 0,
           "dots within a link: after what stands before them");
        ok(pc_mkdirs_in(root, "//b/./c//", 0755, 0, 0, out, sizeof out, &err) == 0 && strcmp(out, at("s/b/c")) == 0,
           "again, nothing to make");
        ok(pc_mkdirs_in(root, "", 0755, 0, 0, out, sizeof out, &err) == 0 && strcmp(out, root) == 0, "the root itself");
        ok(pc_mkdirs_in(root, "loop/x", 0755, 0, 0, out, sizeof out, &err) == -ELOOP, "a loop");
        ok(pc_mkdirs_in(root, "inside/x", 0755, 0, 0, out, sizeof out, &err) == -ENOTDIR, "below a file");
        ok(pc_resolve_in(root, "dangling/x/..", out, sizeof out, &err) == 0 && strcmp(out, at("s/none/such")) == 0,
           "resolve");
        ok(pc_resolve_in(root, "nope", out, sizeof out, &err) == -ENOENT, "... what is not there");
        ok(pc_resolve_in(root, "b", tiny, sizeof tiny, &err) == -ENAMETOOLONG, "... into a short buffer");
        for (int i = 0; i < 1500; i++)
                strcat(deep, "d/");
        ok(pc_mkdirs_in(root, deep, 0755, 0, 0, out, sizeof out, &err) == 0 && strlen(out) > 3000, "1500 levels");
        memset(deep, 'x', 300);
        deep[300] = '\0';
        ok(pc_mkdirs_in(root, deep, 0755, 0, 0, out, sizeof out, &err) == -ENAMETOOLONG, "a name that is too long");
        struct world before = look(dir);
        bool clean = true, hit = true;
        for (int n = 1; hit && n < 100; n++) {
                fault_arm(n, NULL, EIO);
                int r = pc_mkdirs_in(root, "up/new/dangling", 0755, 0, 0, out, sizeof out, &err);
                hit = fault_seen >= n;
                fault_arm(0, NULL, 0);
                clean = clean && (r < 0) == hit && same(before, look(dir));
        }
        ok(clean && !hit, "a failure at any step leaks no descriptor");
}

static void mountinfo(void) {
        static const struct {
                const char *line, *kind; /* NULL: refused with code */
                int code;
        } rows[] = {
            {"36 35 98:0 / /p rw shared:1 - ext4 a b\n", "shared", 0},
            {"36 35 98:0 / /p rw shared:1 - ext4 a b", "shared", 0},
            {"36 35 98:0 / /p rw shared:1 master:2 - ext4 a b\n", "shared", 0},
            {"36 35 98:0 / /p rw master:2 propagate_from:3 - ext4 a b\n", "slave", 0},
            {"36 35 98:0 / /p rw unbindable - ext4 a b\n", "unbindable", 0},
            {"36 35 98:0 / /p rw unbindable2 - ext4 a b\n", "private", 0},
            {"36 35 98:0 net:[4026531840] /p rw - nsfs shared:1 rw\n", "private", 0},
            {"36 35 98:0 / /p\\040shared:1 rw,shared:1 - ext4 a b\n", "private", 0},
            {"36 35 98:0 - - - - ext4 a b\n", "private", 0}, /* a bar is one only where optional fields may stand */
            {"37 35 98:0 / /p rw shared:1 - ext4 a b\n", NULL, -ENOENT},
            {"360 35 98:0 / /p rw - ext4 a b\n", NULL, -ENOENT},
            {"36x 35 98:0 / /p rw - ext4 a b\n", NULL, -ENOENT},
            {"18446744073709551652 35 98:0 / /p rw - ext4 a b\n", NULL, -ENOENT}, /* 2^64 + 36 */
            {"\n", NULL, -ENOENT},
            {"", NULL, -ENOENT},
            {"36 35 98:0 / /p rw shared:1\n", NULL, -EBADMSG},
            {"36 35 98:0 /\n", NULL, -EBADMSG},
            {"36  35 98:0 / /p rw - ext4 a b\n", NULL, -EBADMSG},
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                const char *kind = NULL;
                int r = pc_mountinfo_propagation(rows[i].line, strlen(rows[i].line), 36, &kind);
                ok(r == rows[i].code && (rows[i].kind ? kind && strcmp(kind, rows[i].kind) == 0 : !kind),
                   "a line of mountinfo");
        }
}

int main(void) {
        umask(027);
        if (!mkdtemp(dir) || unshare(CLONE_NEWNS) < 0) /* what a bug leaves goes with us */
                return 1;
        pc_mount_propagation("/", "private", true, NULL);
        snprintf(target, sizeof target, "%s/t", dir);
        snprintf(upper, sizeof upper, "%s/u", dir);
        snprintf(work, sizeof work, "%s/w", dir);
        snprintf(source, sizeof source, "%s/s", dir);
        setenv("WORK", work, 1);
        setenv("DIR", dir, 1);
        mkdir(target, 0755);
        mkdir(at("t2"), 0755);
        mkdir(upper, 0755);
        mkdir(work, 0755);
        mkdir(source, 0755);
        touch(at("s/inside"));
        make_layers();
        overlays(NULL, 0);
        overlays("fsopen", ENOSYS);
        overlays("fsconfig", EINVAL); /* as if "lowerdir+" were unknown */
        refused();
        every_step("overlay: any call fails", do_overlay, NULL);
        every_step("overlay by mount(2): any call fails", do_overlay, "fsopen");
        every_step("bind: any call fails", do_bind, NULL);
        every_step("bind by mount(2): any call fails", do_plain_bind, "open_tree");
        every_step("tmpfs: any call fails", do_tmpfs, NULL);
        every_step("tmpfs by mount(2): any call fails", do_tmpfs, "fsopen");
        binds();
        questions();
        in_roots();
        mountinfo();
        ok(system("rm -rf \"$DIR\"") == 0, "cleaned up");
        return done_testing();
}
