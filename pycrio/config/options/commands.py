"""Rows of the commands and of their own flags."""

from __future__ import annotations

from dataclasses import dataclass

from pycrio.config import rules
from pycrio.config.options.row import Kind, Row, Value


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the program. ``words`` are the values that its one argument may have."""

    name: str
    doc: str
    aliases: tuple[str, ...] = ()
    flags: tuple[Row, ...] = ()
    commands: tuple[Command, ...] = ()
    words: tuple[str, ...] = ()
    hidden: bool = False

    def find(self, name: str) -> Command | None:
        """A command below this one by name or alias."""
        return next((c for c in self.commands if name == c.name or name in c.aliases), None)


def _flag(name: str, kind: Kind, default: Value, doc: str, short: str = "") -> Row:
    key = "cli." + name.replace("-", "_")
    return Row(key, kind, default, doc, flags=(f"--{name}", *([f"-{short}"] if short else [])))


HELP = _flag("help", "bool", False, "Show what there is.", "h")
VERSION = _flag("version", "bool", False, "Show the version.", "v")

_CHECK = Command(
    "check",
    "Look over the node and the image and container store, and repair what is damaged.",
    flags=(
        Row(
            "cli.age",
            "duration",
            "24h",
            "Remove layers that nothing refers to only when they are older than this.",
            flags=("--age", "-a"),
            rules=(rules.duration,),
        ),
        _flag("force", "bool", False, "Remove damaged containers as well.", "f"),
        _flag("repair", "bool", False, "Remove damaged images and layers.", "r"),
        _flag("quick", "bool", False, "Leave out the checks that read much.", "q"),
        _flag("wipe", "bool", False, "Remove the whole store when it cannot be repaired. Dangerous.", "w"),
    ),
)
_STATUS = Command(
    "status",
    "Ask the running daemon.",
    flags=(
        Row(
            "cli.socket",
            "string",
            "/var/run/crio/crio.sock",
            "Socket of the daemon.",
            flags=("--socket", "-s"),
            rules=(rules.absolute,),
        ),
    ),
    commands=(
        Command("config", "Show the configuration that is in force.", ("c",)),
        Command(
            "containers",
            "Show a container.",
            ("container", "cs", "s"),
            (_flag("id", "string", "", "Id of the container.", "i"),),
        ),
        Command("info", "Show cgroup driver, storage and id maps.", ("i",)),
        Command("goroutines", "Show where every task and thread is.", ("g",)),
        Command(
            "heap",
            "Write a dump of what occupies memory.",
            ("hp",),
            (_flag("file", "string", "", "File to write, - for standard output.", "f"),),
        ),
        Command(
            "timeline",
            "Show where the time of the last calls went.",
            ("t",),
            (
                _flag("html", "string", "", "Write one self-contained page to this file instead, - for output."),
                _flag("kind", "strings", (), "Show only these calls, such as RunPodSandbox or PullImage.", "k"),
                _flag("last", "int", 20, "Show at most so many calls.", "n"),
            ),
        ),
    ),
)
ROOT = Command(
    "pycrio",
    "Run pods and containers for the kubelet (CRI runtime.v1).",
    commands=(
        _CHECK,
        Command("complete", "Print the completion script of a shell.", ("completion",), words=("bash", "fish", "zsh")),
        Command(
            "config",
            "Print the configuration as a commented file.",
            flags=(_flag("default", "bool", False, "Read no files, print the defaults."),),
        ),
        Command(
            "man",
            "Print a manual page for man(1).",
            flags=(_flag("section", "int", 8, "8: pycrio(8), the program; 5: crio.conf(5), the file.", "s"),),
        ),
        Command(
            "markdown",
            "Print the manual of the program in Markdown.",
            ("md",),
            (_flag("section", "int", 8, "8: pycrio(8), the program; 5: crio.conf(5), the file.", "s"),),
        ),
        Command(
            "publish",
            "Take an event of a containerd shim.",
            flags=(
                _flag("topic", "string", "", "Topic of the event."),
                _flag("namespace", "string", "", "Namespace of the event."),
                _flag("address", "string", "", "Address of the sender."),
            ),
            hidden=True,
        ),
        _STATUS,
        Command(
            "version",
            "Print what this build is.",
            flags=(
                _flag("json", "bool", False, "As JSON.", "j"),
                _flag("verbose", "bool", False, "With the libraries that it uses.", "v"),
            ),
        ),
        Command(
            "wipe",
            "Remove containers, and images, after a reboot or an upgrade.",
            flags=(_flag("force", "bool", False, "Whatever the version files say.", "f"),),
        ),
        Command("help", "Show what there is.", ("h",)),
    ),
    flags=(HELP, VERSION),
)
