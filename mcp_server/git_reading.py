"""What counts as a git reading command: a list of subcommands and options that only read, inside the repository.

It is a list of what is known to be harmless, each tried against git; whatever is not on it does not
count as reading. Three rules keep it sound without knowing which option takes a value:

- *every* word that starts with a dash must be on the list, also after `--` and where it may be a value,
  because `git grep -e -- -O` takes the `--` for the pattern;
- long options count only in full: git takes `--outp` for `--output`;
- no word that names a path may be absolute or go up, because `git diff /a /b` reads any two files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_DIFF = """
    patch no-patch unified function-context raw patch-with-raw patch-with-stat numstat shortstat dirstat cumulative
    dirstat-by-file check summary name-only name-status stat stat-width stat-name-width stat-graph-width stat-count
    compact-summary binary full-index color no-color ws-error-highlight abbrev no-abbrev src-prefix dst-prefix
    line-prefix no-prefix inter-hunk-context output-indicator-new output-indicator-old output-indicator-context
    break-rewrites find-renames irreversible-delete find-copies find-copies-harder no-renames rename-empty
    no-rename-empty minimal ignore-all-space ignore-space-change ignore-space-at-eol ignore-cr-at-eol
    ignore-blank-lines ignore-matching-lines indent-heuristic no-indent-heuristic patience histogram diff-algorithm
    anchored word-diff word-diff-regex color-words color-moved no-color-moved color-moved-ws relative no-relative text
    exit-code quiet no-ext-diff no-textconv pickaxe-all pickaxe-regex find-object diff-filter full-diff
    ignore-submodules
"""
_REVISIONS = """
    all branches tags remotes glob exclude not no-walk do-walk max-count skip since after until before
    since-as-filter author committer grep grep-reflog all-match invert-grep regexp-ignore-case basic-regexp
    extended-regexp fixed-strings perl-regexp remove-empty merges no-merges min-parents max-parents no-min-parents
    no-max-parents first-parent exclude-first-parent-only left-only right-only left-right cherry cherry-pick
    cherry-mark walk-reflogs boundary simplify-by-decoration show-pulls full-history dense sparse simplify-merges
    ancestry-path date-order author-date-order topo-order reverse children parents date relative-date graph no-graph
    show-linear-break oneline abbrev-commit no-abbrev-commit encoding expand-tabs no-expand-tabs notes no-notes
    no-show-signature format pretty source use-mailmap no-use-mailmap mailmap no-mailmap decorate no-decorate
    decorate-refs decorate-refs-exclude clear-decorations follow log-size cc diff-merges no-diff-merges root
    ignore-missing merge reflog single-worktree
"""
_LOG = _DIFF + _REVISIONS
_LOG_FLAGS = "psuabwWRzrtcmDiEFPg"
_LOG_VALUES = "nLUMCBSGlXI"
_LISTED_REFS = """
    color no-color ignore-case sort format points-at contains no-contains merged no-merged column no-column
"""

_TAKE_THE_NEXT_WORD = ("format", "sort", "diff-merges")
_BUILT_IN_FORMATS = ("oneline", "short", "medium", "full", "fuller", "reference", "email", "mboxrd", "raw")
_RUNS_GPG = re.compile(r"%[-+ ]?G|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Form:
    """The options that one subcommand may have. `shape` judges the words after it as a whole."""

    long: frozenset[str]
    flags: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    """Short options that take the rest of their word as a value, or none."""
    digits: bool = False
    """Whether `-5` is an option."""
    shape: Callable[[Sequence[str]], bool] = lambda words: True


def reads_only(subcommand: str, words: Sequence[str]) -> bool:
    """Whether `git subcommand words…` is known to do nothing but read the repository.

    It holds only with the settings of `git.py` in force, and for a repository that can be vouched for.
    """
    form = _FORMS.get(subcommand)
    if form is None or not form.shape(words):
        return False
    return all(_is_harmless(form, word, words[at + 1 : at + 2]) for at, word in enumerate(words))


def _is_harmless(form: _Form, word: str, following: Sequence[str]) -> bool:
    if word == "--":
        return True
    if word.startswith("--"):
        name, has_value, value = word[2:].partition("=")
        if name not in form.long:
            return False
        if not has_value and following and name in _TAKE_THE_NEXT_WORD:
            value = following[0]
        judge = _VALUES.get(name)
        return judge is None or judge(value)
    if word.startswith("-"):
        return _is_harmless_bundle(form, word[1:])
    return not word.startswith("/") and ".." not in word.split("/")


def _is_harmless_bundle(form: _Form, letters: str) -> bool:
    if form.digits and letters.isdecimal() and letters.isascii():
        return True
    for letter in letters:
        if letter in form.values:
            return True
        if letter not in form.flags:
            return False
    return bool(letters)


def _is_harmless_pretty(value: str) -> bool:
    """`--pretty=name` may be an alias of the repository's own, which may be `%G?`, which runs gpg."""
    if _RUNS_GPG.search(value):
        return False
    return not value or value in _BUILT_IN_FORMATS or "%" in value or value.startswith(("format:", "tformat:"))


def _is_harmless_sort(key: str) -> bool:
    return not _RUNS_GPG.search(key)


def _merges_nothing(value: str) -> bool:
    """`remerge` does each merge again, by the program that the repository names for it."""
    return value in ("", "off", "none", "on", "first-parent", "1", "separate", "combined", "c", "dense-combined", "cc")


def _keeps_out_of_submodules(value: str) -> bool:
    """Looking for changes in a submodule runs git in it, with a configuration that we have not seen."""
    return value in ("", "dirty", "all")


_VALUES: Mapping[str, Callable[[str], bool]] = {
    "format": _is_harmless_pretty,
    "pretty": _is_harmless_pretty,
    "sort": _is_harmless_sort,
    "diff-merges": _merges_nothing,
    "ignore-submodules": _keeps_out_of_submodules,
}


def _positionals(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("-")]


def _lists_refs(words: Sequence[str]) -> bool:
    """`git branch x` makes a branch, `git branch --list x` looks for one.

    The sort key and the format must not be words of their own: they could swallow the word that makes it a list.
    """
    if any(word in ("--sort", "--format") for word in words):
        return False
    lists = any(
        word.partition("=")[0] in ("--list", "--contains", "--no-contains", "--merged", "--no-merged", "--points-at")
        or (re.fullmatch(r"-[a-zA-Z]+", word) is not None and "l" in word)
        for word in words
    )
    return lists or not _positionals(words)


def _lists_remotes(words: Sequence[str]) -> bool:
    if words and words[0] == "get-url":
        return all(word in ("--all", "--push") or not word.startswith("-") for word in words[1:])
    return all(word in ("-v", "--verbose") for word in words)


def _shows_reflog(words: Sequence[str]) -> bool:
    """Without `show`, a word may be one of the verbs that delete entries, wherever it stands."""
    return words[0] == "show" if words and not words[0].startswith("-") else not _positionals(words)


def _starts_with_list(words: Sequence[str]) -> bool:
    return bool(words) and words[0] == "list"


def _form(
    long: str,
    flags: str = "",
    values: str = "",
    *,
    digits: bool = False,
    shape: Callable[[Sequence[str]], bool] = lambda words: True,
) -> _Form:
    return _Form(frozenset(long.split()), frozenset(flags), frozenset(values), digits, shape)


# Left out on purpose, beside what writes: whatever names a file to read (`-O`, `-f`, `-X`, `-S` of blame, `--contents`,
# `--ignore-revs-file`, `--exclude-from`, `--pathspec-from-file`, `--no-index`), reads stdin (`--stdin`, `--batch`),
# runs gpg (`--show-signature`, `tag -v`), goes into submodules (`--submodule`, `--recurse-submodules`, `--dirty`),
# asks the network (`remote show`), runs the configured command (`--alternate-refs`) or looks above the workspace
# (`--show-superproject-working-tree`). `config` shows passwords; since git 2.52 an alias may be named `whatchanged`.
_FORMS: Mapping[str, _Form] = {
    "status": _form(
        """short branch show-stash porcelain long untracked-files ignored ignore-submodules null
        column no-column ahead-behind no-ahead-behind renames no-renames find-renames""",
        "sbz",
        "uM",
    ),
    "log": _form(_LOG, _LOG_FLAGS, _LOG_VALUES, digits=True),
    "show": _form(_LOG, _LOG_FLAGS, _LOG_VALUES, digits=True),
    "diff": _form(_DIFF + "cached staged merge-base base ours theirs", "psuabwWRzcmD", "UMCBSGlXI", digits=True),
    "diff-tree": _form(
        _DIFF + "root cc no-commit-id always merge-base format pretty encoding notes no-notes oneline abbrev-commit",
        "psuabwWRzrtcmDv",
        "UMCBSGlXI",
    ),
    "diff-index": _form(_DIFF + "cached merge-base cc", "psuabwWRzcmD", "UMCBSGlXI"),
    "branch": _form(
        _LISTED_REFS + "list all remotes verbose abbrev no-abbrev show-current", "arlvi", shape=_lists_refs
    ),
    "tag": _form(_LISTED_REFS + "list", "li", "n", shape=_lists_refs),
    "remote": _form("verbose all push", "v", shape=_lists_remotes),
    "ls-files": _form(
        """cached deleted modified others ignored stage killed directory no-empty-directory eol unmerged resolve-undo
        exclude exclude-standard error-unmatch with-tree full-name abbrev debug deduplicate sparse format""",
        "cdmoiskutvfz",
        "x",
    ),
    "ls-tree": _form("long name-only name-status object-only full-name full-tree format abbrev", "drtlz"),
    "rev-parse": _form(
        """verify quiet short abbrev-ref symbolic symbolic-full-name all branches tags remotes glob exclude not git-dir
        absolute-git-dir git-common-dir show-toplevel show-prefix show-cdup is-inside-git-dir is-inside-work-tree
        is-bare-repository is-shallow-repository show-object-format path-format revs-only no-revs flags no-flags default
        since until after before disambiguate""",
        "q",
    ),
    "rev-list": _form(
        _REVISIONS
        + "count objects objects-edge timestamp quiet header disk-usage object-names no-object-names no-commit-header"
        " commit-header abbrev no-abbrev",
        "iEFPgc",
        "n",
        digits=True,
    ),
    "describe": _form("contains debug all tags long first-parent abbrev exact-match candidates match exclude always"),
    "blame": _form(
        """incremental root show-stats no-progress score-debug show-name show-number porcelain line-porcelain show-email
        color-lines color-by-age minimal abbrev first-parent date since reverse encoding ignore-rev no-textconv""",
        "ltcbefnpsw",
        "LMC",
    ),
    "shortlog": _form(_REVISIONS + "numbered summary email group", "nsecEFPi", "w", digits=True),
    "grep": _form(
        """cached untracked exclude-standard no-exclude-standard invert-match ignore-case word-regexp text recursive
        no-recursive max-depth extended-regexp basic-regexp fixed-strings perl-regexp line-number column full-name
        files-with-matches name-only files-without-match null only-matching count color no-color break heading context
        before-context after-context threads show-function function-context and or not quiet all-match max-count
        no-textconv""",
        "viwaIrEGFPnhHlLzocpWq",
        "eABCm",
        digits=True,
    ),
    "cat-file": _form("use-mailmap no-use-mailmap mailmap no-mailmap", "tsep"),
    "name-rev": _form("tags refs exclude all name-only undefined no-undefined always"),
    "merge-base": _form("all octopus independent is-ancestor fork-point", "a"),
    "reflog": _form(_LOG, _LOG_FLAGS, _LOG_VALUES, digits=True, shape=_shows_reflog),
    "stash": _form(_LOG, _LOG_FLAGS, _LOG_VALUES, digits=True, shape=_starts_with_list),
    "worktree": _form("porcelain verbose", "vz", shape=_starts_with_list),
    "for-each-ref": _form(
        "count format sort points-at merged no-merged contains no-contains ignore-case shell perl python tcl color"
        " omit-empty exclude",
        "sp",
    ),
    "show-ref": _form("head heads tags branches verify dereference hash abbrev quiet", "dq", "s"),
    "count-objects": _form("verbose human-readable", "vH"),
    "version": _form("build-options"),
}

READING_SUBCOMMANDS = frozenset(_FORMS)
