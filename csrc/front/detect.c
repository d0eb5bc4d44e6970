/* Which protocol a connection speaks; a function from bytes to a value. */
#include "front/front.h"

/* RFC 9113, 3.4: what every HTTP/2 client sends first. The request line alone decides: no HTTP/1 request has the
 * method PRI, and whether the rest of the preface follows is the server's business. */
static const char preface[] = "PRI * HTTP/2.0";

enum pc_front_kind pc_front_detect(const char *bytes, size_t n) {
        size_t len = sizeof preface - 1, seen = n < len ? n : len;
        if (seen > 0 && memcmp(bytes, preface, seen) != 0)
                return PC_FRONT_HTTP;
        return seen == len ? PC_FRONT_GRPC : PC_FRONT_MORE;
}
