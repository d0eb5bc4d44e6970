/* Container log multiplexing: framing (frame), its clock (clock), the log file (sink), the journal (journal) and
 * attached clients (fanout). Each part stands alone; a program includes what it uses. */
#pragma once
#include "logmux/clock.h"
#include "logmux/fanout.h"
#include "logmux/frame.h"
#include "logmux/journal.h"
#include "logmux/sink.h"
