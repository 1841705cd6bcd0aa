# shellcheck shell=bash disable=SC2154  # `self` and what is read from `made` are assigned elsewhere
# Sourced by scripts/accelmark and scripts/test, which set `self`. `prepare run` or `prepare test` returns when the
# environment in $venv is ready for that, `$venv/bin/python` being the program to start.
#
# A torch that the chosen python can import is what the lab wants measured, so it is used where it lies and never
# replaced. The environment is a plain one whose only link to the chosen python is a .pth file with the folders that
# this python imports from; --system-site-packages would not show what is in an activated environment.
#
# A start that finds all in order starts no python, because a python alone can cost more than the whole check here.

root=$(CDPATH='' cd -P -- "${self%/*}/.." && pwd)
venv=${ACCELMARK_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
[[ ${ACCELMARK_PYTHON:-/} != */* || ${ACCELMARK_PYTHON:-/} == /* ]] || ACCELMARK_PYTHON=$PWD/$ACCELMARK_PYTHON
# What this script keeps in the environment. The folder is also the mark that the environment is ours to clear.
#   lock            held shared by everything that runs from here, and alone by a set-up
#   made            what the environment was made for, as bash assignments
#   installed-run   the pyproject.toml and constraints.txt that its packages came from
#   installed-test  the same, once the tools for the tests are in
#   changing        there while packages change, so that a set-up that was cut short is noticed
state=$venv/.accelmark

say() { printf 'accelmark: %s\n' "$*" >&2; }
stop() {
    say "$@"
    exit 2
}

# Run by the chosen python and afterwards by the new one, to compare; prints bash assignments. It does not import
# torch, which takes seconds and may need a driver.
facts_program='
import importlib.metadata, importlib.util, os, shlex, site, sys, sysconfig

sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry)]  # not the folder that we happen to be in
spec = importlib.util.find_spec("torch")
location = os.path.dirname(os.path.realpath(spec.origin)) if spec and spec.origin else ""
version, trace = "", location and os.path.join(location, "__init__.py")
pins = []
for name in ("torch", "torchvision", "torchaudio", "triton", "numpy"):
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    if not distribution.version:  # what a removal left behind
        continue
    pins.append(f"{name}=={distribution.version}")
    # Metadata of a torch that is hidden by another one says nothing about the one that is imported.
    if name == "torch" and os.path.realpath(distribution.locate_file("torch")) == location:
        version, trace = distribution.version, str(getattr(distribution, "_path", trace))

standard = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
folders = [
    entry for entry in sys.path
    if os.path.isdir(entry) and os.path.realpath(entry) not in standard and os.path.basename(entry) != "lib-dynload"
]
# addsitedir reads the .pth files there, which is how a torch that was built in its source tree is found.
sites = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
pth = "; ".join(["import site, sys"] + [
    f"site.addsitedir({ascii(folder)})" if folder in sites
    else f"{ascii(folder)} in sys.path or sys.path.append({ascii(folder)})"
    for folder in folders
])
# PYTHONPATH is looked at anew at each start; the user folder counts before it exists.
temporary = os.environ.get("PYTHONPATH", "").split(os.pathsep)
watched = [folder for folder in dict.fromkeys([*folders, *sites]) if folder not in temporary]
facts = {
    "python_version": "%d.%d.%d" % sys.version_info[:3],
    "executable": os.path.realpath(sys.executable),
    "identity": f"{os.path.realpath(sys.executable)} in {os.path.realpath(sys.prefix)}",
    "torch_version": version,
    "torch_location": location,
    "torch_trace": trace,
    "pins": "\n".join(pins),
    "pth": pth,
}
print("\n".join(f"{name}={shlex.quote(value)}" for name, value in facts.items()))
print("watched=(" + " ".join(map(shlex.quote, watched)) + ")")
'

# Sets `candidates` to the pythons that may be meant, best first and one of each name.
find_candidates() {
    local found name taken='/' names=(python3 python3.14 python3.13 python3.12 python3.11)
    [[ -z ${ACCELMARK_PYTHON:-} ]] || names=("$ACCELMARK_PYTHON")
    candidates=()
    while IFS= read -r found; do
        name=${found##*/}
        # When our own environment is activated, the python that it was made with is meant.
        if [[ ${found%/*} -ef $venv/bin ]]; then
            found=$made_parent
            [[ -x $found ]] || continue
        fi
        [[ $taken != *"/$name/"* ]] || continue
        taken+=$name/
        candidates+=("$found")
    done < <(type -aP "${names[@]}")
}

# Sets `seen` to the first folder from which the chosen python takes torch, as far as bash can tell.
find_seen() {
    local folder rest=${PYTHONPATH:-}:
    seen=
    while [[ -n $rest ]]; do
        folder=${rest%%:*}
        rest=${rest#*:}
        if [[ $folder == /* && -e $folder/torch/__init__.py ]]; then
            seen=$folder
            return
        fi
    done
    for folder in "$@"; do
        if [[ -e $folder/torch/__init__.py ]]; then
            seen=$folder
            return
        fi
    done
}

# Sets `wanted` to the text that decides which packages are installed.
read_wanted() {
    local project constraints
    IFS= read -r -d '' project <"$root/pyproject.toml" || true
    IFS= read -r -d '' constraints <"$root/constraints.txt" || true
    wanted=$project$constraints
}

# Whether the environment was made for the python and the torch of this call; sets `why` when not, and `asked`.
fits() {
    local name
    made_parent='' made_names=() made_watched=() why='' renamed=''
    # shellcheck source=/dev/null
    [[ ! -r $state/made ]] || source "$state/made"
    find_candidates
    find_seen ${made_watched[@]+"${made_watched[@]}"}
    asked="${candidates[0]:-no python3}${PYENV_VERSION:+ (pyenv $PYENV_VERSION)}"
    if [[ ! -e $state/made && ! -e $state/changing ]]; then
        return 1 # there is none yet, which needs no explanation
    elif [[ ! -e $state/made || -e $state/changing ]]; then
        why="the last set-up was cut short"
    elif [[ $made_root != "$root" || $made_venv != "$venv" ]]; then
        why="it was made in another folder, $made_root"
    elif [[ $made_machine != "$HOSTTYPE" ]]; then
        why="it was made on $made_machine and this machine is $HOSTTYPE (ACCELMARK_VENV=... keeps one for each)"
    elif [[ ! $venv/bin/python -ef $made_executable ]]; then
        why="the python that it was made with, $made_executable, is gone"
    elif [[ $made_wish != "${ACCELMARK_TORCH:-}" ]]; then
        why="ACCELMARK_TORCH is now '${ACCELMARK_TORCH:-}' and was '$made_wish'"
    elif [[ $made_wish != none && $made_wish != install && $made_seen != "$seen" ]]; then
        why="torch is now in ${seen:-no folder of $asked} and was in ${made_seen:-none}"
    elif [[ -n $made_trace && ! -e $made_trace ]]; then
        why="the torch of $made_parent was changed or removed"
    else
        for name in ${made_names[@]+"${made_names[@]}"}; do
            [[ $name != "$asked" ]] || return 0
        done
        renamed=yes why="the python is now $asked and was $made_parent (ACCELMARK_VENV=... keeps one for each)"
    fi
    return 1
}

# Whether the packages for this level, run or test, are those that the checkout asks for; sets `why` when not.
current() {
    local installed=
    why="the tools for the tests are not in it yet"
    [[ -r $state/installed-$1 ]] || return 1
    IFS= read -r -d '' installed <"$state/installed-$1" || true
    read_wanted
    why="pyproject.toml or constraints.txt changed"
    [[ $installed == "$wanted" ]]
}

ready() { fits && current "$1"; }

# Sets `parent` to the first python that is new enough.
choose_parent() {
    local version old='' candidate
    for candidate in ${candidates[@]+"${candidates[@]}"}; do
        # The oldest pythons must understand this, too.
        version=$("$candidate" -c 'import sys; print("%d.%d %d" % (sys.version_info[:2] + (sys.version_info >= (3, 11),)))' \
            2>/dev/null) || continue
        if [[ ${version#* } == 1 ]]; then
            parent=$candidate
            [[ -z $old ]] || say "$old is too old, so $parent is used"
            return
        fi
        old=${old:-$candidate (${version% *})}
    done
    # A distribution whose own python3 is too old tends to have 3.11 beside it.
    local package=python3-venv
    [[ -z $old ]] || package=python3.11-venv
    local remedy="try 'module load python', 'sudo apt-get install -y $package', or ACCELMARK_PYTHON=/path/to/python"
    [[ -z ${ACCELMARK_PYTHON:-} || -n $old ]] || stop "ACCELMARK_PYTHON=$ACCELMARK_PYTHON is not a python that starts: $remedy"
    stop "needs Python 3.11 or newer, and here is ${old:-none}: $remedy"
}

facts_of() {
    "$1" -c "$facts_program" 2>>"$log" || printf 'false\n'
}

# Sets `mode` to what becomes of torch: keep, install or none; and `plan` to the words for it.
choose_torch() {
    mode=${wish:-${torch_location:+keep}}
    mode=${mode:-install}
    case $mode in
        keep)
            [[ -n $torch_location ]] || stop "ACCELMARK_TORCH=keep, but $parent has no torch: install one there, or unset ACCELMARK_TORCH"
            plan="and its torch $torch_version in $torch_location"
            ;;
        install)
            find_seen # on PYTHONPATH
            [[ -z $seen ]] || stop "the torch in $seen would hide an installed one: unset PYTHONPATH or ACCELMARK_TORCH"
            plan="and a torch of its own, which can be a download of gigabytes"
            ;;
        none) plan="and no torch" ;;
        *) stop "ACCELMARK_TORCH is '$wish', but can be keep, install or none" ;;
    esac
}

# On Debian and Ubuntu it takes one more package before a python can make environments.
check_venv() {
    local package=python3-venv
    [[ ${parent##*/} != python3.* ]] || package=${parent##*/}-venv
    "$parent" -c 'import ensurepip, venv' >>"$log" 2>&1 ||
        stop "$parent cannot make environments: 'sudo apt-get install -y $package', or without root choose another with ACCELMARK_PYTHON=/path/to/python"
}

make_environment() {
    touch "$state/changing"
    # All but our own folder, which holds the lock that others may be waiting at.
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name .accelmark -exec rm -rf {} +
    rm -f "$state"/made "$state"/installed-*
    "$parent" -m venv "$venv" >>"$log" 2>&1 ||
        stop "$parent could not make $venv ($(tail -n 1 "$log")): all it said is in $log"
    printf '*\n' >"$venv/.gitignore"
}

# Shows the environment what the chosen python imports, and makes pip leave alone what torch was built against. The
# rest of our own constraints holds as elsewhere.
link_to_parent() {
    local site
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # The name sorts behind the file of the checkout, so that another checkout in that python stays hidden.
    printf '%s\n' "$pth" >"$site/chosen-python.pth"
    printf '%s\n' "$pins" >"$constraints"
    grep -viE '^(torch|torchvision|torchaudio|triton|numpy)\b' "$root/constraints.txt" >>"$constraints" || true
}

# Installs the checkout with the given extras, or stops with what pip said last.
install_packages() {
    local said
    # A container's PIP_CONSTRAINT would also hold for the build backend, which may need something newer. A pip.conf for
    # a shared machine often says `user = true`, which no environment can follow. With its five retries for each
    # package pip needs more than a minute to see that there is no network.
    if PIP_CONSTRAINT='' PIP_USER=0 PIP_RETRIES=${PIP_RETRIES:-2} "$venv/bin/python" -m pip install --no-input \
        --disable-pip-version-check -c "$constraints" -e "$root${1:+[$1]}" >>"$log" 2>&1; then
        return
    fi
    # pip takes back what it had begun, so an environment that was good before still is.
    [[ ! -e $state/made ]] || rm -f "$state/changing"
    said=$(grep -oE 'ERROR: .+|^[A-Za-z0-9_.]+(Error|Timeout|Exception): .*' "$log" | tail -n 1) || said="it did not say why"
    if grep -qE 'Retrying \(|Connection(Error| refused| reset)|name resolution|unreachable|timed out' "$log" ||
        [[ -n ${PIP_NO_INDEX:-} && $said == *"No matching distribution"* ]]; then
        stop "a set-up needs the network, and pip could not reach what it needs ($said): start once with a network, or name your lab's mirror in PIP_INDEX_URL"
    fi
    stop "pip could not install ($said): all it said is in $log"
}

record() {
    local trace=
    [[ $mode != keep ]] || trace=$torch_trace
    find_seen "${watched[@]}"
    {
        printf 'made_%s=%q\n' parent "$parent" identity "$identity" root "$root" venv "$venv" machine "$HOSTTYPE" \
            wish "$wish" seen "$seen" trace "$trace"
        printf 'made_names=(%q %q)\n' "$asked" "$parent${PYENV_VERSION:+ (pyenv $PYENV_VERSION)}"
        printf 'made_watched=('
        printf '%q ' "${watched[@]}"
        printf ')\n'
    } >"$state/made"
}

# In a shell of its own, at a fixed place: what `python3` is can depend on the folder, with pyenv for one.
set_up() (
    cd "$root" || exit
    local level=$1 wish=${ACCELMARK_TORCH:-} log=$state/set-up.log made=yes task="an update" extras=
    local parent mode plan python_version executable identity torch_version torch_location torch_trace pins pth watched
    local constraints=$root/constraints.txt before
    : >"$log"
    if fits; then
        parent=$made_parent
    else
        made=''
        choose_parent
    fi
    eval "$(facts_of "$parent")" || stop "$parent does not start properly: see $log"
    # One python can have several names, such as pyenv's shim and the program behind it.
    if [[ -n $renamed && $identity == "$made_identity" ]]; then
        made=yes
        printf 'made_names+=(%q)\n' "$asked" >>"$state/made"
    fi
    if [[ -n $made ]]; then
        ! current "$level" || return 0
    else
        task="to be made anew"
        check_venv
    fi
    choose_torch
    [[ -z $why ]] || say "$venv needs $task: $why"
    say "setting up $venv with $parent (Python $python_version) $plan; a minute or two, once; to look on: tail -f '$log'"

    [[ -n $made ]] || make_environment
    touch "$state/changing" # until it is removed below, a new start begins again
    if [[ $mode == keep ]]; then
        constraints=$state/constraints.txt
        link_to_parent
    fi
    extras=estimate # what calibrate, estimate and plan need besides the hard dependencies
    [[ $mode != install ]] || extras+=,torch
    [[ $level != test ]] || extras+=,test,lint
    read_wanted # before pip reads it, so that what is edited meanwhile is noticed at the next start
    install_packages "$extras"
    record

    before="$torch_version in $torch_location"
    eval "$(facts_of "$venv/bin/python")" || stop "the new $venv/bin/python does not start: see $log"
    [[ $mode != keep || "$torch_version in $torch_location" == "$before" ]] ||
        stop "torch was $before and is now ${torch_version:-gone} in ${torch_location:-no folder}: please report this, with $log"
    printf 'made_executable=%q\n' "$executable" >>"$state/made"
    printf '%s' "$wanted" >"$state/installed-run"
    [[ $level != test ]] || cp "$state/installed-run" "$state/installed-test"
    rm "$state/changing"
    [[ $mode == none || -n $(type -P cc gcc clang) ]] ||
        say "there is no C compiler, which torch.compile needs: 'sudo apt-get install -y build-essential', or 'module load gcc'"
)

# Lets others use the environment but not change it. The lock is held until the program that is started from here
# ends, so that no set-up removes packages under a running measurement.
share() {
    [[ -r $state/lock ]] || return 1
    [[ -z $locks ]] || return 0
    exec 9<"$state/lock"
    flock -n -s 9 2>/dev/null
}

# Waits until nobody else uses the environment.
reserve() {
    local status=0 owner=
    local busy="waiting until another accelmark is done with $venv (ACCELMARK_VENV=... makes a second one)"
    if [[ -z $locks ]]; then
        exec 9<>"$state/lock"
        flock -n 9 2>/dev/null || status=$?
        if [[ $status == 1 ]]; then
            say "$busy"
            flock 9 || status=$?
        fi
        [[ $status != 0 && $status != 1 ]] || return 0
        locks=folder # not every network file system can lock
    fi
    # Without flock a folder is the lock: two cannot make the same one. It guards a set-up, not a run.
    touch "$state/lock"
    until mkdir "$state/lock-folder" 2>/dev/null; do
        [[ -z $busy ]] || say "$busy; if there is none, remove $state/lock-folder"
        busy=
        sleep 1
        owner=$(cat "$state/lock-folder/owner" 2>/dev/null) || continue
        if [[ ${owner% *} == "$HOSTNAME" ]] && ! kill -0 "${owner##* }" 2>/dev/null; then
            rm -rf "$state/lock-folder"
        fi
    done
    printf '%s %s\n' "$HOSTNAME" "$$" >"$state/lock-folder/owner"
    trap 'rm -rf "$state/lock-folder"' EXIT
}

release() {
    if [[ -z $locks ]]; then
        flock -s 9
    else
        rm -rf "$state/lock-folder"
        trap - EXIT
    fi
}

prepare() {
    locks=
    type -P flock >/dev/null || locks=folder
    if share && [[ ! -e $state/lock-folder ]] && ready "$1"; then
        return
    fi
    # Somebody's own environment may hold the only copy of a torch that took hours to build.
    if [[ ! -d $state && -e $venv ]] && [[ ! -d $venv || -n $(ls -A "$venv") ]]; then
        stop "$venv is not made by this script, so it stays as it is: choose another folder, as in ACCELMARK_VENV=$venv-accelmark; if it has a torch, activate it and that torch is used"
    fi
    mkdir -p "$state" 2>/dev/null && [[ -w $state ]] ||
        stop "cannot write to $venv: choose another folder, as in ACCELMARK_VENV=~/.cache/accelmark-venv"
    reserve
    ready "$1" || set_up "$1" # somebody else may have done it meanwhile
    release
    fits || stop "$venv does not fit after its set-up: $why"
}
