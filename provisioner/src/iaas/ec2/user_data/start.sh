#!/bin/sh
# Starts the agent of this machine. cloud-init runs it once; by hand it may be run as often as you like: there is one agent in any case.
#   sh start.sh      sees to it that an agent runs, also after a reboot where systemd runs
#   sh start.sh run  becomes the agent
# All of it is in the directory of this file: agent.env, launch-token, ca.pem; start.log, agent.log, worker.log.
# Its own exit codes: 10 the agent cannot be had, 11 it is not the one that is meant, 12 something of the machine fails it.
set -u
umask 022
PATH="${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME="${HOME:-/root}"
EPU_HOME=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 12
export PATH HOME EPU_HOME

# Keeps a log from growing for ever, as when something is tried again every ten seconds for a week.
bound() {
    if [ -f "$1" ] && [ "$(wc -c <"$1")" -gt 1000000 ]; then mv -f "$1" "$1.1"; fi
}
say() {
    printf 'epu: %s\n' "$*" >&2
    { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$EPU_HOME/start.log"; } 2>/dev/null
}
fail() {
    code=$1
    shift
    say "$*"
    exit "$code"
}
has() {
    command -v "$1" >/dev/null 2>&1
}

digest() {
    if has sha256sum; then
        sha256sum <"$1"
    elif has shasum; then
        shasum -a 256 <"$1"
    else
        openssl dgst -sha256 -r <"$1"
    fi 2>/dev/null | cut -d ' ' -f 1
}

# At most two minutes and 200 MB a try.
fetch() (
    ulimit -f 400000 2>/dev/null || :
    if has curl; then
        curl -fsSL --connect-timeout 10 --max-time 120 -o "$1" "$EPU_AGENT_URL"
    elif has timeout; then
        timeout 120 wget -q -T 10 -O "$1" "$EPU_AGENT_URL"
    else
        wget -q -T 10 -O "$1" "$EPU_AGENT_URL"
    fi
)

# Sets `agent`.
find_agent() {
    if [ -z "${EPU_AGENT_URL-}" ]; then
        agent=$(command -v epu-agent) ||
            fail 10 "epu-agent is not on the path ($PATH): bake it into the image, or have it fetched (agent: {url, sha256})"
        return 0
    fi
    agent=$EPU_HOME/bin/epu-agent
    if [ -x "$agent" ] && [ "$(digest "$agent")" = "$EPU_AGENT_SHA256" ]; then return 0; fi
    # A url may carry a password or a signature.
    shown=$(printf '%s' "${EPU_AGENT_URL%%\?*}" | sed 's|//[^/]*@|//|')
    has curl || has wget || fail 10 "neither curl nor wget is installed to fetch $shown: install one, or bake the agent into the image"
    has sha256sum || has shasum || has openssl || fail 11 "nothing here computes SHA-256 (sha256sum, shasum, openssl): the agent is not fetched"
    fresh=$agent.$$
    mkdir -p "$EPU_HOME/bin" || fail 12 "$EPU_HOME/bin cannot be made"
    trap 'rm -f "$fresh"' EXIT
    try=1
    pause=${EPU_START_PAUSE:-2}
    until fetch "$fresh"; do
        say "fetch $shown: try $try of 5 failed"
        [ "$try" -lt 5 ] || fail 10 "the agent cannot be fetched from $shown: can this machine reach it?"
        sleep "$pause"
        pause=$((pause * 2))
        try=$((try + 1))
    done
    is=$(digest "$fresh")
    [ "$is" = "$EPU_AGENT_SHA256" ] ||
        fail 11 "what $shown gave has the SHA-256 $is, the template wants $EPU_AGENT_SHA256: it is not started"
    { chmod 755 "$fresh" && mv -f "$fresh" "$agent"; } || fail 12 "the agent cannot be put at $agent"
}

# What must be right: an agent that dies does not take its worker along (KillMode), nor a worker that runs out of memory its agent
# (OOMPolicy); an agent that knows that it is not wanted stays away (RestartPreventExitStatus).
unit() {
    cat <<END
[Unit]
Description=Agent of an elastic pool
Wants=network-online.target
After=network-online.target cloud-init.service cloud-init-network.service

[Service]
ExecStart=/bin/sh "$EPU_HOME/start.sh" run
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2 3 4 5 6 11
KillMode=process
OOMPolicy=continue
TasksMax=infinity
TimeoutStopSec=300
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
END
}

# /run where /etc cannot be written; then it does not last over a reboot.
by_systemd() {
    for units in ${EPU_START_UNITS:-/etc/systemd/system /run/systemd/system}; do
        { mkdir -p "$units" && unit >"$units/epu-agent.service"; } 2>/dev/null || continue
        systemctl daemon-reload || return 1
        systemctl enable epu-agent.service || say "epu-agent.service is not enabled: after a reboot, run $EPU_HOME/start.sh"
        systemctl start --no-block epu-agent.service || return 1
        say "epu-agent.service was started by systemd, for launch ${EPU_LAUNCH-}"
        return 0
    done
    return 1
}

# Not by nohup where it can be avoided: a worker would inherit that it is deaf to SIGHUP.
by_itself() {
    if has setsid; then
        setsid sh "$EPU_HOME/start.sh" run </dev/null >>"$EPU_HOME/agent.log" 2>&1 &
    else
        nohup sh "$EPU_HOME/start.sh" run </dev/null >>"$EPU_HOME/agent.log" 2>&1 &
    fi
    say "the agent was started in the background, for launch ${EPU_LAUNCH-}; it writes agent.log"
}

bound "$EPU_HOME/start.log"
bound "$EPU_HOME/agent.log"
[ -r "$EPU_HOME/agent.env" ] || fail 12 "$EPU_HOME/agent.env is missing: cloud-init did not write the user data's files"
given=${EPU_METADATA-}
set -a
. "$EPU_HOME/agent.env"
set +a
[ -z "$given" ] || EPU_METADATA=$given

case ${1-} in
run)
    find_agent
    unset EPU_AGENT_URL EPU_AGENT_SHA256 EPU_START_PAUSE EPU_START_UNITS EPU_START_BY
    cd "$EPU_HOME" || fail 12 "$EPU_HOME cannot be entered"
    trap - EXIT
    say "$agent begins, for launch ${EPU_LAUNCH-}"
    exec "$agent" </dev/null >>"$EPU_HOME/agent.log" 2>&1
    ;;
'')
    by=${EPU_START_BY-}
    if [ -z "$by" ]; then
        # Elsewhere it is a test, or somebody's own arrangement: nothing of the machine is changed.
        if [ "$EPU_HOME" = /var/lib/epu ] && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && has systemctl; then
            by=systemd
        else
            by=itself
        fi
    fi
    [ "$by" = systemd ] && by_systemd && exit 0
    by_itself
    ;;
*)
    fail 12 "start.sh: $1 is not known; it is run without arguments, or with: run"
    ;;
esac
