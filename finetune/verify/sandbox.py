"""Runs a model's code on test cases without files, network and child processes; `rules` starts it as a script.

It reads one JSON object from stdin: code, function (or null), args (a list of argument lists). It writes one to stdout:
{"values": [[candidates] per case]} or {"error": "..."}. The candidates are the returned value and, if that is None, the
first argument after the call (a sort in place). The parent process compares them; the expected values are not here.

These restrict the code, the strongest first: kernel limits (no new file descriptor, and so no file and no socket; no
file growth; CPU seconds; address space; no new process once root is given up), no new privileges, a network namespace
of its own if the kernel grants one, and an audit hook that refuses what the standard library could still reach.
"""

import sys

MEMORY_BYTES = 512 * 2**20
CPU_SECONDS = 5
# What an answer may import: loaded before the restrictions. Any other import fails, as its file cannot be opened.
MODULES = (
    "_strptime", "abc", "array", "bisect", "calendar", "cmath", "collections", "collections.abc", "copy", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "heapq", "itertools", "json", "math", "numbers",
    "operator", "queue", "random", "re", "statistics", "string", "textwrap", "time", "typing",
)  # fmt: skip
REFUSED = ("socket.", "subprocess.", "os.", "shutil.", "ctypes.", "pty.", "signal.", "sys.settrace")


def main():
    """Read the task, restrict this process, run the code, write the reply."""
    import importlib
    import json
    import os

    task = json.loads(sys.stdin.buffer.read())
    for name in MODULES:
        importlib.import_module(name)
    # The reply goes to a copy of stdout; what the code prints is discarded.
    reply = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    close_doors(os)
    try:
        result = {"values": run(task)}
    except MemoryError:
        result = {"error": "ran out of memory"}
    except BaseException as error:
        result = {"error": f"{type(error).__name__}: {error}"[:300]}
    data = json.dumps(result).encode()
    while data:
        data = data[os.write(reply, data) :]
    os._exit(0)


def close_doors(os):
    """Give up root, enter a new network namespace, set limits, install the audit hook. None of it can be undone."""
    import resource

    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(0x40000000)  # CLONE_NEWNET; without the capability it fails, and the limits below must suffice
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    except (ImportError, OSError):
        pass  # a Python without ctypes
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        except OSError:
            pass  # root without capabilities
    limits = {
        "RLIMIT_CPU": CPU_SECONDS,
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 0,
    }
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))

    def refuse(event, args):
        if event == "open" or event.startswith(REFUSED):
            raise PermissionError(f"not allowed here: {event}")

    sys.addaudithook(refuse)


def run(task):
    """Execute the code as a module, then call the function on each argument list."""
    import copy

    space = {"__name__": "answer", "__builtins__": __builtins__}
    failure = None
    try:
        exec(compile_longest(task["code"]), space)
    except Exception as error:  # an example call below the function may fail where the function itself is right
        failure = error
    try:
        function = pick(space, task["function"])
    except NameError as error:
        raise (failure or error) from None
    values = []
    for args in task["args"]:
        given = copy.deepcopy(args)
        returned = function(*given)
        candidates = [plain(returned)]
        if returned is None and given:
            candidates.append(plain(given[0]))
        values.append(candidates)
    return values


def compile_longest(code):
    """Compile the code, or the longest beginning that compiles: prose may follow code without a fence."""
    import textwrap

    lines = textwrap.dedent(code).splitlines()
    whole = None
    for end in range(len(lines), max(0, len(lines) - 60), -1):
        try:
            return compile("\n".join(lines[:end]) + "\n", "<answer>", "exec")
        except SyntaxError as error:
            whole = whole or error  # the error of the whole code is the one to report
    raise whole or SyntaxError("no code")


def pick(space, name):
    """The named function, else the last one that the code defines."""
    if callable(space.get(name)):
        return space[name]
    own = [f for f in space.values() if getattr(f, "__module__", None) == "answer" and callable(f)]
    functions = [f for f in own if not isinstance(f, type)]
    if not functions:
        raise NameError(f"the answer defines no function{f' {name}' if name else ''}")
    return functions[-1]


def plain(value, depth=0):
    """The value as JSON data: tuples and generators as lists, sets as sorted lists, anything else as its repr."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else repr(value)
    if depth < 20:
        if isinstance(value, dict):
            return {str(key): plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (set, frozenset)):
            return sorted((plain(item, depth + 1) for item in value), key=repr)
        if isinstance(value, (list, tuple)):
            return [plain(item, depth + 1) for item in value]
        if hasattr(value, "__next__"):
            import itertools

            return [plain(item, depth + 1) for item in itertools.islice(value, 10_000)]
    return repr(value)[:1000]


if __name__ == "__main__":
    main()
