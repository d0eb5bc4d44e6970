#include "untar/archive.h"
#include "common/fd.h"
#include "untar/apply.h"
#include "untar/cursor.h"
#include "untar/filler.h"
#include "untar/header.h"
#include "untar/idset.h"
#include "untar/names.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* A member under construction: what the headers before it said. */
struct member {
        struct pc_tar_header h;
        uint8_t block[PC_TAR_BLOCK];
        struct pc_pax pax;
        char *pax_text, *long_name, *long_link;
        const char *name, *link; /* effective, as written in the archive */
        int64_t stored, size;    /* bytes of data in the archive; length of the file */
        bool sparse;
        struct pc_regions regions;
};

struct reader {
        struct pc_archive *a;
        struct pc_cursor in;
        struct pc_apply *apply;
        struct pc_pax global; /* owner and times only */
        uint64_t headers;     /* blocks that describe, members or not */
        bool global_line;     /* a line for a global header was written */
        size_t padding;       /* of the last data, not read yet */
        char clean[PC_PATH_ROOM], clean_link[PC_PATH_ROOM];
};

static void member_done(struct member *m) {
        pc_pax_done(&m->pax);
        free(m->pax_text);
        free(m->long_name);
        free(m->long_link);
        free(m->regions.v);
}

static int split_error(int r, struct pc_err *reterr) {
        return r < 0 ? pc_fail(reterr, r, "tar-split metadata", NULL) : 0;
}

static int raw(struct reader *r, const void *p, size_t n, struct pc_err *reterr) {
        return r->a->split && n > 0 ? split_error(pc_split_raw(r->a->split, p, n), reterr) : 0;
}

/* Exactly n bytes that the tar-split keeps. */
static int take(struct reader *r, void *to, size_t n, struct pc_err *reterr) {
        ssize_t got = pc_cursor_read(&r->in, to, n);
        if (got < 0 || (size_t) got < n)
                return pc_cursor_stopped(got < 0 ? got : 0, reterr);
        return raw(r, to, n, reterr);
}

/* The next header block: 1, or 0 at the end of the archive (marked, or just the end of the stream). */
static int next_block(struct reader *r, struct member *m, struct pc_err *reterr) {
        if (r->padding > 0) {
                ssize_t got = pc_cursor_read(&r->in, m->block, r->padding);
                if (got < 0)
                        return pc_cursor_stopped(got, reterr);
                int e = raw(r, m->block, (size_t) got, reterr);
                if (e < 0 || (size_t) got < r->padding)
                        return e; /* writers that leave out the very last padding exist */
                r->padding = 0;
        }
        for (int zeros = 0; zeros < 2; zeros++) {
                ssize_t got = pc_cursor_read(&r->in, m->block, PC_TAR_BLOCK);
                if (got < 0 || (got > 0 && got < PC_TAR_BLOCK))
                        return pc_cursor_stopped(got < 0 ? got : 0, reterr);
                if (got == 0)
                        return 0;
                int e = raw(r, m->block, PC_TAR_BLOCK, reterr);
                if (e < 0)
                        return e;
                e = pc_tar_header_parse(m->block, &m->h, reterr);
                if (e < 0)
                        return e;
                if (e == 0 && zeros == 1)
                        return pc_fail(reterr, EBADMSG, "data after the end mark of the archive", NULL);
                if (e == 0)
                        return 1;
        }
        return 0;
}

/* Data of a header-like member as a string. */
static int special(struct reader *r, const struct member *m, char **ret, struct pc_err *reterr) {
        if ((uint64_t) m->h.size > r->a->limits->special)
                return pc_fail(reterr, E2BIG, "extended header limit", NULL);
        size_t n = (size_t) m->h.size;
        char *text = malloc(n + 1);
        if (!text)
                return pc_fail(reterr, ENOMEM, "extended header", NULL);
        int e = take(r, text, n, reterr);
        if (e < 0) {
                free(text);
                return e;
        }
        text[n] = 0;
        r->padding = -n & (PC_TAR_BLOCK - 1);
        free(*ret);
        *ret = text;
        return 0;
}

/* A global header changes owner and times of what follows. Names, sizes and maps in one would mean the same for every
 * member; readers disagree about them, and two readings of one layer are worse than ignoring them. */
static int global(struct reader *r, struct member *m, struct pc_err *reterr) {
        const unsigned kept = PC_PAX_UID | PC_PAX_GID | PC_PAX_MTIME | PC_PAX_ATIME;
        _cleanup_free_ char *text = NULL;
        struct pc_pax p;
        int e = special(r, m, &text, reterr);
        if (e == 0)
                e = pc_pax_parse(text, (size_t) m->h.size, r->a->limits->sparse, &p, reterr);
        if (e < 0)
                return e;
        struct pc_pax *g = &r->global;
        g->have = (g->have & ~p.blank) | (p.have & kept);
        g->uid = p.have & PC_PAX_UID ? p.uid : g->uid;
        g->gid = p.have & PC_PAX_GID ? p.gid : g->gid;
        g->mtime = p.have & PC_PAX_MTIME ? p.mtime : g->mtime;
        g->atime = p.have & PC_PAX_ATIME ? p.atime : g->atime;
        pc_pax_done(&p);
        if (!r->a->split || r->global_line)
                return 0; /* readers of the metadata refuse a name that comes twice */
        r->global_line = true;
        return split_error(pc_split_file(r->a->split, m->h.name, 0, 0), reterr);
}

static int local(struct reader *r, struct member *m, struct pc_err *reterr) {
        int e = special(r, m, &m->pax_text, reterr);
        pc_pax_done(&m->pax); /* its strings were in the text before */
        return e < 0 ? e : pc_pax_parse(m->pax_text, (size_t) m->h.size, r->a->limits->sparse, &m->pax, reterr);
}

/* Headers up to and including the one of a real member: 1; 0 at the end. */
static int headers(struct reader *r, struct member *m, struct pc_err *reterr) {
        for (;;) {
                int e = next_block(r, m, reterr);
                if (e <= 0)
                        return e;
                /* Not only members: a stream of nothing but extended headers shall end as well. */
                if (++r->headers / 4 >= r->a->limits->entries)
                        return pc_fail(reterr, E2BIG, "entry limit", NULL);
                switch (m->h.type) {
                case 'x':
                case 'X':
                        e = local(r, m, reterr);
                        break;
                case 'g':
                        e = global(r, m, reterr);
                        break;
                case 'L':
                        e = special(r, m, &m->long_name, reterr);
                        break;
                case 'K':
                        e = special(r, m, &m->long_link, reterr);
                        break;
                default:
                        return 1;
                }
                if (e < 0)
                        return e;
        }
}

static int old_sparse(struct reader *r, struct member *m, struct pc_err *reterr) {
        bool more, first = true;
        if (!m->h.gnu || !pc_tar_number(m->block + 483, 12, &m->size))
                return pc_fail(reterr, EBADMSG, "sparse header", m->name);
        do {
                int e = first ? 0 : take(r, m->block, PC_TAR_BLOCK, reterr);
                if (e == 0)
                        e = pc_regions_old(&m->regions, m->block, first, &more, reterr);
                if (e < 0)
                        return e;
                first = false;
        } while (more);
        m->sparse = true;
        m->h.type = '0';
        return 0;
}

static int pax_sparse(struct reader *r, struct member *m, struct pc_err *reterr) {
        const struct pc_pax *p = &m->pax;
        int kind = pc_pax_sparse(p, &m->regions, reterr);
        if (kind <= 0)
                return kind;
        if (p->have & PC_PAX_SP_NAME)
                m->name = p->sparse_name;
        if (p->have & PC_PAX_SP_SIZE)
                m->size = p->sparse_size;
        else if (p->have & PC_PAX_SP_REALSIZE)
                m->size = p->sparse_realsize;
        m->sparse = true;
        struct pc_map10 map = {.count = -1, .pending = -1};
        for (int more = kind == 2; more;) {
                if (m->stored < PC_TAR_BLOCK)
                        return pc_fail(reterr, EBADMSG, "sparse map", m->name);
                m->stored -= PC_TAR_BLOCK;
                int e = take(r, m->block, PC_TAR_BLOCK, reterr);
                if (e == 0)
                        e = more = pc_map10_feed(&map, &m->regions, m->block, reterr);
                if (e < 0)
                        return e;
        }
        return 0;
}

/* Put together what the headers say: name, link, type, sizes, sparse map. */
static int settle(struct reader *r, struct member *m, struct pc_err *reterr) {
        const struct pc_pax *p = &m->pax;
        m->regions.max = r->a->limits->sparse;
        m->name = m->long_name ? m->long_name : p->have & PC_PAX_PATH ? p->path : m->h.name;
        m->link = m->long_link ? m->long_link : p->have & PC_PAX_LINK ? p->link : m->h.link;
        if (m->long_name && !*m->long_name)
                m->name = p->have & PC_PAX_PATH ? p->path : m->h.name;
        if (m->long_link && !*m->long_link)
                m->link = p->have & PC_PAX_LINK ? p->link : m->h.link;
        if (p->have & PC_PAX_SIZE)
                m->h.size = p->size;
        if (m->h.size < 0)
                return pc_fail(reterr, EBADMSG, "negative size", m->name);
        size_t n = strlen(m->name);
        if (m->h.type == 0)
                m->h.type = n > 0 && m->name[n - 1] == '/' ? '5' : '0';
        if (m->h.type == '7') /* "contiguous": a hint to file systems that are gone */
                m->h.type = '0';
        bool file = m->h.type == '0' || m->h.type == 'S';
        if (!file && !pc_tar_header_only(m->h.type))
                return pc_fail(reterr, ENOTSUP, "entry type of the archive", m->name);
        m->stored = m->size = file ? m->h.size : 0;
        r->padding = -(size_t) m->stored & (PC_TAR_BLOCK - 1);
        int e = !file ? 0 : m->h.type == 'S' ? old_sparse(r, m, reterr) : pax_sparse(r, m, reterr);
        if (e < 0 || !m->sparse)
                return e;
        return pc_regions_check(&m->regions, m->size, m->stored, reterr);
}

static int fill(struct reader *r, const struct member *m, struct pc_entry *e, struct pc_err *reterr) {
        const struct pc_untar_opts *o = r->a->opts;
        const struct pc_pax *p = &m->pax, *g = &r->global;
        unsigned from_global = g->have & ~p->have & ~p->blank;
        int64_t uid = p->have & PC_PAX_UID ? p->uid : from_global & PC_PAX_UID ? g->uid : m->h.uid;
        int64_t gid = p->have & PC_PAX_GID ? p->gid : from_global & PC_PAX_GID ? g->gid : m->h.gid;
        struct timespec mtime = p->have & PC_PAX_MTIME ? p->mtime : from_global & PC_PAX_MTIME ? g->mtime : m->h.mtime;
        struct timespec atime = p->have & PC_PAX_ATIME ? p->atime : from_global & PC_PAX_ATIME ? g->atime : m->h.atime;
        uint32_t host_uid, host_gid;
        bool device = m->h.type == '3' || m->h.type == '4';
        if (device && ((uint64_t) m->h.devmajor > 0xfff || (uint64_t) m->h.devminor > 0xfffff))
                return pc_fail(reterr, EBADMSG, "device number", m->name);
        if (pc_apply_map(o->uid_map, o->n_uid_map, uid, &host_uid, reterr) < 0 ||
            pc_apply_map(o->gid_map, o->n_gid_map, gid, &host_gid, reterr) < 0)
                return -reterr->code;
        bool has_atime = m->h.has_atime || (p->have | from_global) & PC_PAX_ATIME;
        bool older = atime.tv_sec < mtime.tv_sec || (atime.tv_sec == mtime.tv_sec && atime.tv_nsec < mtime.tv_nsec);
        *e = (struct pc_entry){.name = r->clean,
                               .link = m->link,
                               .type = m->h.type,
                               .mode = (mode_t) (m->h.mode & 07777),
                               .uid = host_uid,
                               .gid = host_gid,
                               .dev = makedev((unsigned) m->h.devmajor, (unsigned) m->h.devminor),
                               /* nothing was read before it was written */
                               .times = {has_atime && !older ? atime : mtime, mtime},
                               .xattrs = p->xattrs,
                               .n_xattrs = p->n_xattrs};
        const char *base;
        pc_name_split(r->clean, &base);
        if (strncmp(base, ".wh.", 4) != 0 &&
            (pc_idset_add(r->a->uids, (uint32_t) uid) < 0 || pc_idset_add(r->a->gids, (uint32_t) gid) < 0))
                return pc_fail(reterr, ENOMEM, "set of owners", NULL);
        return 0;
}

/* n bytes of data to the file (file) and into the tar-split as they are (keep) or as a sum. */
static int copy(struct reader *r, int64_t n, bool file, bool keep, uint64_t *crc, struct pc_err *reterr) {
        while (n > 0) {
                const uint8_t *p;
                ssize_t got = pc_cursor_span(&r->in, n < SSIZE_MAX ? (size_t) n : SSIZE_MAX, &p);
                if (got <= 0)
                        return pc_cursor_stopped(got, reterr);
                int e = file ? pc_apply_write(r->apply, p, (size_t) got, reterr) : 0;
                if (e == 0 && keep)
                        e = raw(r, p, (size_t) got, reterr);
                else if (e == 0 && r->a->split)
                        *crc = pc_crc64(*crc, p, (size_t) got);
                if (e < 0)
                        return e;
                n -= got;
        }
        return 0;
}

static int file(struct reader *r, const struct member *m, const struct pc_entry *e, struct pc_err *reterr) {
        uint64_t crc = 0;
        int before = pc_apply_begin(r->apply, e, reterr), x = before < 0 ? before : 0, given = 0;
        if (!m->sparse && x == 0)
                x = given = pc_apply_give(r->apply, e, r->in.at, (uint64_t) m->stored, reterr);
        if (!m->sparse && x >= 0)
                x = copy(r, m->stored, !given, before == 1, &crc, reterr);
        for (size_t i = 0; x == 0 && m->sparse && i < m->regions.n; i++) {
                x = pc_apply_seek(r->apply, m->regions.v[i].offset, reterr);
                if (x == 0)
                        x = copy(r, m->regions.v[i].length, true, true, &crc, reterr);
        }
        if (x == 0 && m->sparse)
                x = pc_apply_seek(r->apply, m->size, reterr);
        if (x == 0 && !given)
                x = pc_apply_end(r->apply, e, m->size, reterr);
        if (x < 0 || !r->a->split)
                return x;
        /* tar-split knows whole files only: what a sparse member stores, and what came twice under one name, stays in
         * the metadata as raw bytes, so that the archive can be put together again. */
        if (m->sparse || before == 1)
                return 0;
        return split_error(pc_split_file(r->a->split, m->name, m->stored, crc), reterr);
}

static int apply_one(struct reader *r, struct member *m, struct pc_err *reterr) {
        const struct pc_untar_limits *l = r->a->limits;
        const char *hidden = NULL;
        struct pc_entry e;
        uint64_t none = 0;
        int x = pc_name_clean(m->name, false, l->path, l->depth, r->clean, reterr);
        if (x < 0)
                return x;
        if (m->h.type == '1') {
                x = pc_name_clean(m->link, true, l->path, l->depth, r->clean_link, reterr);
                if (x < 0)
                        return x;
                m->link = r->clean_link;
        } else if (m->h.type == '2' && strlen(m->link) >= PC_PATH_ROOM) {
                return pc_fail(reterr, ENAMETOOLONG, "symbolic link target", m->name);
        }
        x = fill(r, m, &e, reterr);
        if (x < 0)
                return x;
        enum pc_mark mark = pc_name_mark(r->clean, &hidden);
        if (mark == PC_MARK_BAD)
                return pc_fail(reterr, EPERM, "whiteout of no name", m->name);
        if (mark == PC_MARK_NONE && m->h.type == '0')
                return file(r, m, &e, reterr);
        if (mark == PC_MARK_SKIP)
                return copy(r, m->stored, false, true, &none, reterr);
        x = mark == PC_MARK_OPAQUE     ? pc_apply_opaque(r->apply, &e, reterr)
            : mark == PC_MARK_WHITEOUT ? pc_apply_whiteout(r->apply, &e, hidden, reterr)
                                       : pc_apply_entry(r->apply, &e, reterr);
        if (x < 0)
                return x;
        /* Members without data have a line too, once per name; data that no file keeps stays raw. */
        if (r->a->split && x == 0 && m->stored == 0)
                return split_error(pc_split_file(r->a->split, m->name, 0, 0), reterr);
        return copy(r, m->stored, false, true, &none, reterr);
}

/* What follows the end mark counts for the digest and for the tar-split. */
static int trailer(struct reader *r, struct pc_err *reterr) {
        int e = r->a->split ? split_error(pc_split_segment(r->a->split), reterr) : 0;
        while (e == 0) {
                const uint8_t *p;
                ssize_t got = pc_cursor_span(&r->in, SSIZE_MAX, &p);
                if (got < 0)
                        return pc_cursor_stopped(got, reterr);
                if (got == 0)
                        return r->a->split ? split_error(pc_split_finish(r->a->split), reterr) : 0;
                e = raw(r, p, (size_t) got, reterr);
        }
        return e;
}

static int run(struct reader *r, struct pc_err *reterr) {
        for (;;) {
                struct member m = {.pax.pair_offset = -1};
                int e = headers(r, &m, reterr), more = e;
                if (more == 1 && r->a->entries >= r->a->limits->entries)
                        e = pc_fail(reterr, E2BIG, "entry limit", NULL);
                r->a->entries += e == 1;
                if (e == 1)
                        e = settle(r, &m, reterr);
                if (more == 1 && e == 0)
                        e = apply_one(r, &m, reterr);
                member_done(&m);
                if (e < 0)
                        return e;
                if (more == 0)
                        return 0;
        }
}

static int pass(void *filler, uint64_t at) {
        return pc_filler_pass(filler, at);
}

int pc_archive_run(struct pc_archive *a, struct pc_err *reterr) {
        struct pc_err own;
        struct reader *r = calloc(1, sizeof *r);
        if (!reterr)
                reterr = &own;
        if (!r)
                return pc_fail(reterr, ENOMEM, "unpack", NULL);
        r->a = a;
        r->in = (struct pc_cursor){.ring = a->tar, .reader = a->reader};
        if (a->filler) {
                r->in.border = pass;
                r->in.arg = a->filler;
        }
        r->apply = pc_apply_new(a->opts, a->exact_umask, a->filler, reterr);
        int e = r->apply ? run(r, reterr) : -reterr->code;
        if (e == 0)
                e = trailer(r, reterr);
        if (e == 0)
                e = pc_apply_finish(r->apply, reterr);
        if (r->apply) {
                a->xattrs_skipped = pc_apply_xattrs_skipped(r->apply);
                a->split_complete = !pc_apply_lost(r->apply);
        }
        pc_apply_free(r->apply);
        free(r);
        return e;
}
