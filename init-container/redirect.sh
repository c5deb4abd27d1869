#!/bin/sh
#
# Redirect the outgoing TCP of a network namespace (a pod's, usually) into the Sidestream proxy.
#
# What it promises:
#   - all or nothing: IPv4 and IPv6 are both tested before either is written, and put back when one fails
#   - running it twice equals running it once; running it with other options replaces the earlier rules
#   - only chains that begin with SIDESTREAM_, and one jump to each, are ever written or removed:
#     --cleanup leaves the tables as they were
#   - wrong options are named all at once, before anything is touched
#
# How it is built: `wanted` prints the rules as a value, `current` prints what of ours is there, and
# `transition` prints the iptables-restore document that leads from one to the other. Applying, cleaning up,
# rolling back and --dry-run are all transitions. The order of the rules is explained at `redirect_rules`.
#
# POSIX sh: dash and busybox ash run it. It writes no file, so the root may be read-only.

set -eu
set -f # `*` in an option is a wrong value, never the names of files
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

ME=redirect.sh
LOCK_WAIT_SECONDS=30 # per call, for whoever else holds the xtables lock
PORTS_PER_RULE=15    # the multiport match takes no more
MAX_UID=4294967294   # the highest uid_t means "no uid"

usage() {
    cat <<'END'
Redirect outgoing TCP into the Sidestream proxy, with iptables, for IPv4 and IPv6.

Usage: redirect.sh [OPTION…]              apply the rules, replacing those of an earlier run
       redirect.sh --cleanup [OPTION…]    remove them again; fine if there are none
       redirect.sh --dry-run [OPTION…]    print what would be written; needs no rights, changes nothing

Option                  Environment                   Default
--proxy-port PORT       SIDESTREAM_PROXY_PORT         15001   or a range, 15001-15004: one of them at random
--proxy-address ADDRESS SIDESTREAM_PROXY_ADDRESS      none    where the proxy is, if not here
--proxy-uid UID         SIDESTREAM_PROXY_UID          1337    the proxy's own traffic is not redirected
--ports PORTS           SIDESTREAM_PORTS              80      ports whose connections are redirected
--intercept-tls on|off  SIDESTREAM_INTERCEPT_TLS      off     on: redirect port 443 as well
--exclude-ports PORTS   SIDESTREAM_EXCLUDE_PORTS      none    never redirected; wins over --ports and 443
--include-cidrs CIDRS   SIDESTREAM_INCLUDE_CIDRS      all     only connections to these are redirected
--exclude-cidrs CIDRS   SIDESTREAM_EXCLUDE_CIDRS      none    never redirected; wins over --include-cidrs
--backend NAME          SIDESTREAM_IPTABLES_BACKEND   auto    auto, nft or legacy
--cleanup, --dry-run, --help

PORTS and CIDRS are lists: 80,8080 and 10.0.0.0/8,fd00::/8. CIDRs of both families go into one list. A list of
included CIDRs is the whole answer: with IPv4 CIDRs only, nothing that goes over IPv6 is redirected.

With --proxy-address the proxy is elsewhere, and can't know where a connection was to go: it must be one that is told by
what is said in it (sidestream run --mode regular). No uid is let through then, and TCP of the other family that would
be redirected is rejected.

Where 443 is redirected, UDP to port 443 is rejected for everyone but the proxy, so that HTTP/3 clients fall back
to TCP. A flag wins over its environment variable. `auto` takes legacy where legacy rules are in use already, else
nft if it works, else legacy.

Exit status: 0 done, 1 the rules could not be applied (nothing is left half-applied), 2 wrong options.
END
}

# --- saying what is wrong ------------------------------------------------------------------------

say() {
    printf '%s\n' "$*"
}

fail() { # MESSAGE
    printf '%s: %s\n' "$ME" "$1" >&2
    exit 1
}

problems=

problem() { # WHERE WHAT-AND-WHAT-TO-DO
    problems="$problems
  $1: $2"
}

shown() ( # VALUE: quoted, fit for a log
    printf "'%s'" "$(printf '%s' "$1" | tr -c ' -~' '?' | cut -c 1-256)"
)

# --- options -------------------------------------------------------------------------------------

# Each option has a variable and its source: the flag or the environment variable it came from, empty for the default.
action=apply
dry_run=
flags_given=

proxy_port=${SIDESTREAM_PROXY_PORT-15001}
proxy_port_source=${SIDESTREAM_PROXY_PORT+SIDESTREAM_PROXY_PORT}
proxy_address=${SIDESTREAM_PROXY_ADDRESS-}
proxy_address_source=${SIDESTREAM_PROXY_ADDRESS+SIDESTREAM_PROXY_ADDRESS}
proxy_uid=${SIDESTREAM_PROXY_UID-1337}
proxy_uid_source=${SIDESTREAM_PROXY_UID+SIDESTREAM_PROXY_UID}
ports=${SIDESTREAM_PORTS-80}
ports_source=${SIDESTREAM_PORTS+SIDESTREAM_PORTS}
intercept_tls=${SIDESTREAM_INTERCEPT_TLS-off}
intercept_tls_source=${SIDESTREAM_INTERCEPT_TLS+SIDESTREAM_INTERCEPT_TLS}
exclude_ports=${SIDESTREAM_EXCLUDE_PORTS-}
exclude_ports_source=${SIDESTREAM_EXCLUDE_PORTS+SIDESTREAM_EXCLUDE_PORTS}
include_cidrs=${SIDESTREAM_INCLUDE_CIDRS-}
include_cidrs_source=${SIDESTREAM_INCLUDE_CIDRS+SIDESTREAM_INCLUDE_CIDRS}
exclude_cidrs=${SIDESTREAM_EXCLUDE_CIDRS-}
exclude_cidrs_source=${SIDESTREAM_EXCLUDE_CIDRS+SIDESTREAM_EXCLUDE_CIDRS}
backend=${SIDESTREAM_IPTABLES_BACKEND-auto}
backend_source=${SIDESTREAM_IPTABLES_BACKEND+SIDESTREAM_IPTABLES_BACKEND}

set_option() { # FLAG VALUE
    case " $flags_given " in
    *" $1 "*) problem "$1" "is given twice: give it once, lists separated by commas" ;;
    esac
    flags_given="$flags_given $1"
    case $1 in
    --proxy-port) proxy_port=$2 proxy_port_source=$1 ;;
    --proxy-address) proxy_address=$2 proxy_address_source=$1 ;;
    --proxy-uid) proxy_uid=$2 proxy_uid_source=$1 ;;
    --ports) ports=$2 ports_source=$1 ;;
    --intercept-tls) intercept_tls=$2 intercept_tls_source=$1 ;;
    --exclude-ports) exclude_ports=$2 exclude_ports_source=$1 ;;
    --include-cidrs) include_cidrs=$2 include_cidrs_source=$1 ;;
    --exclude-cidrs) exclude_cidrs=$2 exclude_cidrs_source=$1 ;;
    --backend) backend=$2 backend_source=$1 ;;
    *) problem "$(shown "$1")" "there is no such option: see $ME --help" ;;
    esac
}

parse_options() { # ARGUMENT…
    while [ $# -gt 0 ]; do
        case $1 in
        --help | -h)
            usage
            exit 0
            ;;
        --cleanup) action=cleanup ;;
        --dry-run) dry_run=yes ;;
        --cleanup=* | --dry-run=* | --help=*) problem "${1%%=*}" "takes no value: leave $(shown "=${1#*=}") out" ;;
        --*=*) set_option "${1%%=*}" "${1#*=}" ;;
        --proxy-port | --proxy-address | --proxy-uid | --ports | --exclude-ports | --include-cidrs | --exclude-cidrs | \
            --intercept-tls | --backend)
            case ${2---} in # the last argument reads as if another flag followed
            --*) problem "$1" "has no value: write $1 VALUE, see $ME --help" ;;
            *)
                set_option "$1" "$2"
                shift
                ;;
            esac
            ;;
        -*) problem "$(shown "$1")" "there is no such option: see $ME --help" ;;
        *) problem "$(shown "$1")" "is not an option: every value follows its flag, see $ME --help" ;;
        esac
        shift
    done
}

is_number() { # VALUE MAX
    case $1 in
    '' | *[!0-9]* | 0?* | ???????????*) return 1 ;; # a leading zero reads as octal elsewhere
    esac
    [ "$1" -le "$2" ]
}

is_port() { # VALUE
    is_number "$1" 65535 && [ "$1" -ge 1 ]
}

has_port() { # PORTS PORT
    case ,$1, in
    *,"$2",*) return 0 ;;
    *) return 1 ;;
    esac
}

is_ipv4() ( # VALUE
    case $1 in
    *[!0-9.]* | .* | *. | *..*) exit 1 ;;
    esac
    IFS=.
    # shellcheck disable=SC2086  # split at the dots
    set -- $1
    [ $# -eq 4 ] || exit 1
    for octet; do
        is_number "$octet" 255 || exit 1
    done
)

is_ipv6() ( # VALUE
    address=$1
    case $address in
    *[!0-9A-Fa-f:.]* | *:::* | *::*::* | :[!:]* | *[!:]:) exit 1 ;;
    *.*) # ends in an IPv4 address, which stands for two groups
        is_ipv4 "${address##*:}" || exit 1
        address=${address%:*}:0:0
        ;;
    esac
    groups=0
    IFS=:
    for group in $address; do
        case $group in
        '') ;; # a side of `::`
        *[!0-9A-Fa-f]* | ?????*) exit 1 ;;
        *) groups=$((groups + 1)) ;;
        esac
    done
    case $address in
    *::*) [ "$groups" -le 7 ] ;;
    *) [ "$groups" -eq 8 ] ;;
    esac
)

is_cidr() ( # VALUE
    address=${1%%/*}
    if is_ipv4 "$address"; then
        longest=32
    elif is_ipv6 "$address"; then
        longest=128
    else
        exit 1
    fi
    case $1 in
    */*) is_number "${1#*/}" "$longest" ;;
    esac
)

# A connection to the proxy's own port must not be handed to the proxy as if it were one to somebody else.
is_not_the_proxys() { # PORT
    ! is_port "$1" || [ "$1" -lt "$proxy_port_first" ] || [ "$1" -gt "$proxy_port_last" ]
}

check_list() { # SOURCE VALUE IS_ITEM WHAT-AN-ITEM-IS
    [ -n "$1" ] || return 0 # the default
    if [ -z "$2" ]; then
        problem "$1" "is empty: give a list, or leave the option out"
        return 0
    fi
    rest=$2,
    while [ -n "$rest" ]; do
        item=${rest%%,*}
        rest=${rest#*,}
        "$3" "$item" || problem "$1" "$(shown "$item") is not $4"
    done
}

# Sets proxy_port_first and proxy_port_last: equal for one port, 0 if the option is wrong.
check_proxy_port() {
    proxy_port_first=${proxy_port%%-*}
    proxy_port_last=${proxy_port#*-}
    if ! is_port "$proxy_port_first" || ! is_port "$proxy_port_last"; then
        problem "$proxy_port_source" \
            "$(shown "$proxy_port") is not a port or a range of ports: ports are 1 to 65535, like 15001 or 15001-15004"
    elif [ "$proxy_port_first" = "$proxy_port_last" ] && [ "$proxy_port" != "$proxy_port_first" ]; then
        problem "$proxy_port_source" "$(shown "$proxy_port") is a range of one port: write $proxy_port_first"
    elif [ "$proxy_port_first" -gt "$proxy_port_last" ]; then
        problem "$proxy_port_source" \
            "$(shown "$proxy_port") is a range that runs backwards: write $proxy_port_last-$proxy_port_first"
    else
        return 0
    fi
    proxy_port_first=0 proxy_port_last=0
}

# Sets proxy_family: 4 or 6 where the proxy is elsewhere, else empty.
check_proxy_address() {
    proxy_family=
    [ -n "$proxy_address_source" ] || return 0
    if is_ipv4 "$proxy_address"; then
        proxy_family=4
    elif is_ipv6 "$proxy_address"; then
        proxy_family=6
    else
        problem "$proxy_address_source" "$(shown "$proxy_address") is no address: give the number, like 10.96.0.15"
    fi
    case $proxy_address in
    127.* | ::1) problem "$proxy_address_source" "$proxy_address is here: leave the option out" ;;
    esac
    [ -z "$proxy_uid_source" ] || problem "$proxy_uid_source" \
        "lets nobody through when the proxy is elsewhere ($proxy_address_source): leave it out"
    case $proxy_port in
    *-*) problem "$proxy_port_source" "a range is for a proxy that is here: give the one port at $proxy_address" ;;
    esac
}

# Names every wrong option and exits with 2, or leaves options that the rest can rely on.
check_options() {
    check_proxy_port
    check_proxy_address
    if ! is_number "$proxy_uid" "$MAX_UID"; then
        problem "$proxy_uid_source" "$(shown "$proxy_uid") is not a uid: give the number, like 1337"
    elif [ "$proxy_uid" -eq 0 ]; then
        problem "$proxy_uid_source" \
            "uid 0 would let every process of root bypass the proxy: run the proxy as a user of its own, like 1337"
    fi
    check_list "$ports_source" "$ports" is_port "a port: ports are 1 to 65535, like 80,8080"
    check_list "$exclude_ports_source" "$exclude_ports" is_port "a port: ports are 1 to 65535, like 22,3306"
    case $intercept_tls in
    on | true) has_port "$ports" 443 || ports=$ports,443 ;;
    off | false) ;;
    *) problem "$intercept_tls_source" "$(shown "$intercept_tls") is neither on nor off: write one of them" ;;
    esac
    [ -z "$ports" ] || check_list "${proxy_port_source:-$ports_source}" "$ports" is_not_the_proxys \
        "to be redirected, it is the proxy's own: give the proxy another port, or redirect others"
    check_list "$include_cidrs_source" "$include_cidrs" is_cidr "an address or a CIDR: write 10.0.0.0/8 or fd00::/8"
    check_list "$exclude_cidrs_source" "$exclude_cidrs" is_cidr "an address or a CIDR: write 10.0.0.0/8 or fd00::/8"
    case $backend in
    auto | nft | legacy) ;;
    *) problem "$backend_source" "there is no back end $(shown "$backend"): use auto, nft or legacy" ;;
    esac
    if [ -n "$problems" ]; then
        printf '%s: these options are wrong, nothing was changed:%s\n' "$ME" "$problems" >&2
        exit 2
    fi
}

# --- the rules, as a value -----------------------------------------------------------------------

port_groups() ( # PORTS: one line for each rule's worth
    IFS=,
    # shellcheck disable=SC2086  # split at the commas
    set -- $1
    group=
    count=0
    for port; do
        group=${group:+$group,}$port
        count=$((count + 1))
        if [ "$count" -eq "$PORTS_PER_RULE" ]; then
            say "$group"
            group=
            count=0
        fi
    done
    [ -z "$group" ] || say "$group"
)

cidrs_of() ( # FAMILY CIDRS: one line each
    IFS=,
    for cidr in $2; do
        case $cidr in
        *:*) family=6 ;;
        *) family=4 ;;
        esac
        [ "$family" != "$1" ] || say "$cidr"
    done
)

included_destinations() ( # FAMILY: `any`, or one CIDR per line, or nothing at all
    if [ -z "$include_cidrs" ]; then
        say any
    else
        cidrs_of "$1" "$include_cidrs"
    fi
)

rule() ( # CHAIN NAME MATCH TARGET
    say "-A $1 $3 -m comment --comment \"sidestream/$2\" -j $4"
)

# What bypasses the proxy, whatever the port: its own traffic, what stays in the pod, what was excluded.
exemptions() ( # FAMILY CHAIN
    case $1 in
    4) loopback=127.0.0.0/8 ;;
    6) loopback=::1/128 ;;
    esac
    [ -n "$proxy_family" ] || rule "$2" ignore-proxy-uid "-m owner --uid-owner $proxy_uid" RETURN
    rule "$2" ignore-loopback "-o lo" RETURN
    rule "$2" ignore-loopback "-d $loopback" RETURN
    for cidr in $(cidrs_of "$1" "$exclude_cidrs"); do
        rule "$2" ignore-excluded-cidr "-d $cidr" RETURN
    done
)

included() ( # FAMILY CHAIN NAME MATCH TARGET: one rule for each included destination
    for destination in $(included_destinations "$1"); do
        case $destination in
        any) rule "$2" "$3" "$4" "$5" ;;
        *) rule "$2" "$3" "-d $destination $4" "$5" ;;
        esac
    done
)

# The first rule that matches decides, so the order is the order of precedence. It is Istio's:
#
#   1. excluded ports     the user's last word: not even the rules below can bring them back
#   2. the proxy's uid    or what the proxy sends would come back to it, for ever
#   3. loopback           what the pod says to itself, by device (its own address goes out of lo too) and by address
#   4. excluded CIDRs     before the included ones: a hole may be cut into what is included
#   5. included ports, to included CIDRs    to the proxy
#
# What no rule matches leaves as if this script had never run.
#
# A uid is known only while the socket is open. Here that is enough: of each connection only the first packet comes by.
# In raw it is not. A conntrack zone for the proxy's uid loses what was still unsent when the proxy closed a connection.
redirect_rules() ( # FAMILY
    selection "$1" SIDESTREAM_OUTPUT redirect-included SIDESTREAM_REDIRECT
    case $proxy_family,$proxy_port in
    4,*) rule SIDESTREAM_REDIRECT redirect-to-proxy "-p tcp" "DNAT --to-destination $proxy_address:$proxy_port" ;;
    6,*) rule SIDESTREAM_REDIRECT redirect-to-proxy "-p tcp" "DNAT --to-destination [$proxy_address]:$proxy_port" ;;
    *-*) rule SIDESTREAM_REDIRECT redirect-to-proxy "-p tcp" "REDIRECT --to-ports $proxy_port --random" ;;
    *) rule SIDESTREAM_REDIRECT redirect-to-proxy "-p tcp" "REDIRECT --to-ports $proxy_port" ;;
    esac
)

# A proxy elsewhere has an address of one family. What would be redirected, but goes over the other, must not go round it.
reject_rules() ( # FAMILY
    selection "$1" SIDESTREAM_REJECT reject-other-family "REJECT --reject-with tcp-reset"
)

selection() ( # FAMILY CHAIN NAME TARGET: the rules that end with what is included going to TARGET
    for group in $(port_groups "$exclude_ports"); do
        rule "$2" ignore-excluded-ports "-p tcp -m multiport --dports $group" RETURN
    done
    exemptions "$1" "$2"
    for group in $(port_groups "$ports"); do
        included "$1" "$2" "$3" "-p tcp -m multiport --dports $group" "$4"
    done
)

# HTTP/3 runs over UDP and would bypass the redirection. Rejected (not dropped), a client turns to TCP at once.
# Only what would be redirected over TCP is rejected: same exemptions, same destinations.
quic_rules() ( # FAMILY
    case $1 in
    4) answer=icmp-port-unreachable ;;
    6) answer=icmp6-port-unreachable ;;
    esac
    exemptions "$1" SIDESTREAM_QUIC
    included "$1" SIDESTREAM_QUIC reject-quic "-p udp" "REJECT --reject-with $answer"
)

rejects_quic() { # FAMILY
    has_port "$ports" 443 && ! has_port "$exclude_ports" 443 && [ -n "$(included_destinations "$1")" ]
}

# The form of iptables-save, reduced to what is ours: chains, their rules, and the jumps to them.
wanted() ( # FAMILY
    if [ "${proxy_family:-$1}" = "$1" ]; then
        say '*nat'
        say ':SIDESTREAM_OUTPUT - [0:0]'
        say ':SIDESTREAM_REDIRECT - [0:0]'
        rule OUTPUT output "-p tcp" SIDESTREAM_OUTPUT
        redirect_rules "$1"
        say 'COMMIT'
    fi
    rejected=$(
        if [ "${proxy_family:-$1}" != "$1" ]; then
            say ':SIDESTREAM_REJECT - [0:0]'
            rule OUTPUT output-other-family "-p tcp" SIDESTREAM_REJECT
            reject_rules "$1"
        fi
        if rejects_quic "$1"; then
            say ':SIDESTREAM_QUIC - [0:0]'
            rule OUTPUT output-quic "-p udp -m udp --dport 443" SIDESTREAM_QUIC
            quic_rules "$1"
        fi
    )
    if [ -n "$rejected" ]; then
        say '*filter'
        say "$rejected"
        say 'COMMIT'
    fi
)

# --- from what is there to what is wanted --------------------------------------------------------

# A jump ends with its chain; a foreign comment that names one ends with a quotation mark.
ours() {
    sed -n -e '/^\*/p' -e '/^COMMIT/p' -e '/^:SIDESTREAM_/p' -e '/^-A SIDESTREAM_/{p;d;}' \
        -e '/^-A .* -[jg] SIDESTREAM_[A-Z]*$/p'
}

table_of() ( # TABLE RULES: the chains and rules of one table
    printf '%s\n' "$2" | sed -n "/^\\*$1\$/,/^COMMIT/{/^[:-]/p;}"
)

chains_of() ( # TABLE-RULES: their names
    printf '%s\n' "$1" | sed -n 's/^:\([^ ]*\) .*/\1/p'
)

# iptables-restore commits table by table, each atomically. With --noflush, a chain that is declared is created or
# emptied, and nothing else is touched. Our jump goes to the top of OUTPUT: an earlier rule that accepts would otherwise
# let traffic bypass the proxy, unnoticed.
transition() ( # CURRENT WANTED: the document; empty if there is nothing to do
    for table in nat filter; do
        there=$(table_of "$table" "$1")
        wanted=$(table_of "$table" "$2")
        [ "$there" != "$wanted" ] || continue
        say "*$table"
        printf '%s\n' "$there" | sed -n -e '/^-A SIDESTREAM_/d' -e 's/^-A /-D /p'
        printf '%s\n' "$wanted" | sed -n -e '/^:/p'
        printf '%s\n' "$wanted" | sed -n -e '/^-A SIDESTREAM_/p'
        printf '%s\n' "$wanted" | sed -n -e '/^-A SIDESTREAM_/d' -e 's/^-A \([^ ]*\)/-I \1 1/p'
        obsolete=
        for chain in $(chains_of "$there"); do
            case $wanted in
            *":$chain "*) ;;
            *) obsolete="$obsolete $chain" ;;
            esac
        done
        for chain in $obsolete; do say "-F $chain"; done # all, before any goes: they jump to each other
        for chain in $obsolete; do say "-X $chain"; done
        say 'COMMIT'
    done
)

# --- iptables ------------------------------------------------------------------------------------

family_name() {
    case $1 in
    4) say IPv4 ;;
    6) say IPv6 ;;
    esac
}

# Prints the program: `iptables-nft-save`, or `iptables-save` where that one is of this back end.
program() ( # FAMILY BACKEND VERB: empty, -save or -restore
    case $1 in
    4) base=iptables ;;
    6) base=ip6tables ;;
    esac
    if command -v "$base-$2$3" >/dev/null; then
        say "$base-$2$3"
        exit 0
    fi
    command -v "$base$3" >/dev/null || exit 1
    case $("$base" --version 2>/dev/null) in
    *nf_tables*) found=nft ;;
    *) found=legacy ;; # versions before 1.8 do not say
    esac
    [ "$found" = "$2" ] && say "$base$3"
)

# Is this back end installed, and does it reach the kernel? Leaves what iptables said in $said.
usable() { # FAMILY BACKEND
    for verb in "" -save -restore; do
        if ! program "$1" "$2" "$verb" >/dev/null; then
            said="$(family_name "$1") programs of the $2 back end: not installed"
            return 1
        fi
    done
    said=$("$(program "$1" "$2" "")" --wait "$LOCK_WAIT_SECONDS" --table nat --list-rules OUTPUT 2>&1)
}

saved() ( # FAMILY BACKEND
    save=$(program "$1" "$2" -save) || exit 1
    # Only root may list the legacy tables there are; others ask for each, which creates it if need be.
    "$save" 2>/dev/null || { "$save" -t nat && "$save" -t filter; } 2>/dev/null
)

current() ( # FAMILY BACKEND: what of ours is there
    rules=$(saved "$1" "$2") || exit 1
    printf '%s\n' "$rules" | ours
)

restore() { # FAMILY BACKEND DOCUMENT [--test]: leaves what iptables said in $said
    [ -n "$3" ] || return 0
    said=$(printf '%s\n' "$3" |
        "$(program "$1" "$2" -restore)" --noflush --wait="$LOCK_WAIT_SECONDS" ${4:+"$4"} 2>&1)
}

in_use() ( # BACKEND: does it hold rules, whoever's?
    { saved 4 "$1" || :; saved 6 "$1" || :; } | grep '^-A ' >/dev/null
)

# Sets backend to nft or legacy, or fails.
choose_backend() {
    case $backend in
    auto)
        if in_use legacy; then
            backend=legacy
        elif usable 4 nft; then
            backend=nft
        else
            said_nft=$said
            usable 4 legacy || fail "neither back end of iptables works here.
  nft: $said_nft
  $(remedy "$said_nft")
  legacy: $said
  $(remedy "$said")"
            backend=legacy
        fi
        ;;
    *)
        usable 4 "$backend" || fail "the $backend back end of iptables does not work here.
  $said
  $(remedy "$said")"
        ;;
    esac
}

remedy() ( # WHAT-IPTABLES-SAID: what a person can do
    case $1 in
    *"lock file"*)
        say "The legacy back end locks /run/xtables.lock: mount a writable /run (an emptyDir), or use --backend nft." ;;
    *"xtables lock"*)
        say "Another program held the xtables lock for $LOCK_WAIT_SECONDS seconds: find out which, then try again." ;;
    *"ermission denied"* | *"not permitted"* | *"must be root"*)
        say "The capability NET_ADMIN is missing (the legacy back end needs NET_RAW too): add both to the container's" \
            "securityContext.capabilities.add, or run this as root." ;;
    *"not installed"*)
        say "Install iptables (Debian: iptables; Alpine: iptables and iptables-legacy), or give the other --backend." ;;
    *)
        say "The kernel may lack what is named above: load the modules on the node, or give the other --backend." ;;
    esac
)

# --- doing it ------------------------------------------------------------------------------------

# Addresses of loopback and of the link do not count: nothing leaves the pod from them.
has_global_ipv6_address() {
    grep -q '^[0-9a-f]* [0-9a-f]* [0-9a-f]* 00 ' /proc/net/if_inet6 2>/dev/null
}

# Sets families. IPv6 is left out only where nothing can leave over it.
choose_families() {
    families="4 6"
    usable 6 "$backend" && return
    if has_global_ipv6_address; then
        fail "ip6tables does not work here, but there is an IPv6 address: traffic over it would bypass the proxy.
  $said
  $(remedy "$said")
  Nothing was changed."
    fi
    families=4
    say "$ME: IPv6 is not available here (no address, and ip6tables does not work): only IPv4 is redirected"
}

# Kept per family: what was there `before`, what is `wanted`, and the `document` that leads from one to the other.
keep() { # NAME FAMILY VALUE
    eval "${1}_$2=\$3"
}

kept() { # NAME FAMILY
    eval "printf '%s\n' \"\$${1}_$2\""
}

plan() { # FAMILY: reads, changes nothing
    now=$(current "$1" "$backend") || fail "the rules for $(family_name "$1") cannot be read. Nothing was changed."
    keep before "$1" "$now"
    keep wanted "$1" "$(wanted "$1")"
    keep document "$1" "$(transition "$now" "$(kept wanted "$1")")"
}

roll_back() ( # says how it went
    left=
    for family in $families; do
        now=$(current "$family" "$backend") &&
            restore "$family" "$backend" "$(transition "$now" "$(kept before "$family")")" ||
            left="${left:+$left and }$(family_name "$family")"
    done
    if [ -z "$left" ]; then
        say "What was there before is in place again."
    else
        say "The rules for $left could not be put back: run $ME --cleanup."
    fi
)

# What a rule becomes on its way through the kernel differs in spelling; chain and target do not.
outline() ( # RULES
    printf '%s\n' "$1" | sed -n 's/^-A \([^ ]*\) .*-j \([^ ]*\).*/\1 \2/p' | sort
)

is_there() ( # FAMILY
    now=$(current "$1" "$backend") && [ "$(outline "$now")" = "$(outline "$(kept wanted "$1")")" ]
)

apply() {
    choose_backend
    choose_families
    for family in $families; do
        plan "$family"
    done
    for family in $families; do
        restore "$family" "$backend" "$(kept document "$family")" --test ||
            fail "the rules for $(family_name "$family") would not be accepted. Nothing was changed.
  $said
  $(remedy "$said")"
    done

    trap '' HUP INT TERM # from here on, all or nothing
    for family in $families; do
        if ! restore "$family" "$backend" "$(kept document "$family")"; then
            reason=$said
            fail "the rules for $(family_name "$family") were not accepted. $(roll_back)
  $reason
  $(remedy "$reason")"
        fi
    done
    for family in $families; do
        is_there "$family" && continue
        fail "the rules for $(family_name "$family") were accepted but are not there: is something else writing rules?
  $(roll_back)"
    done
    # Rules of an earlier run with the other back end would redirect as well.
    case $backend in
    nft) remove_from legacy ;;
    legacy) remove_from nft ;;
    esac
    trap - HUP INT TERM
    summary
}

summary() {
    case $families in
    4) over="IPv4" ;;
    *) over="IPv4 and IPv6" ;;
    esac
    say "$ME: applied and verified ($backend, $over)"
    say "  redirected   TCP to ports $ports -> ${proxy_family:+$proxy_address port }$proxy_port"
    [ -z "$include_cidrs" ] || say "  only to      $include_cidrs"
    except="to loopback"
    [ -n "$proxy_family" ] || except="from uid $proxy_uid, $except"
    [ -z "$exclude_ports" ] || except="$except, to ports $exclude_ports"
    [ -z "$exclude_cidrs" ] || except="$except, to $exclude_cidrs"
    say "  never        $except"
    for family in $families; do
        [ -n "$(included_destinations "$family")" ] ||
            say "  nothing      over $(family_name "$family"): none of it is included"
    done
    case $proxy_family in
    4) say "  rejected     the same over IPv6: the proxy's address is of IPv4" ;;
    6) say "  rejected     the same over IPv4: the proxy's address is of IPv6" ;;
    esac
    if rejects_quic 4 || rejects_quic 6; then
        say "  rejected     UDP to port 443 (QUIC), where TCP would be redirected"
    fi
}

# Removes what is ours from one back end, if that one can be read. Sets `removed` if there was something.
remove_from() { # BACKEND
    for family in 4 6; do
        now=$(current "$family" "$1") || continue
        document=$(transition "$now" "")
        [ -n "$document" ] || continue
        restore "$family" "$1" "$document" || fail "the rules for $(family_name "$family") ($1) could not be removed.
  $said
  $(remedy "$said")"
        removed=yes
    done
}

cleanup() {
    case $backend in
    auto) backends="nft legacy" ;;
    *) backends=$backend ;;
    esac
    choose_backend # fails unless there is one that works
    removed=
    for each in $backends; do
        remove_from "$each"
    done
    if [ -n "$removed" ]; then
        say "$ME: removed"
    else
        say "$ME: there was nothing to remove"
    fi
}

# The documents for a namespace that has none of our rules (--cleanup: one that has exactly these).
print_documents() {
    for family in 4 6; do
        case $family in
        4) say "# IPv4: iptables-restore --noflush" ;;
        6) say "# IPv6: ip6tables-restore --noflush" ;;
        esac
        case $action in
        apply) transition "" "$(wanted "$family")" ;;
        cleanup) transition "$(wanted "$family")" "" ;;
        esac
    done
}

parse_options "$@"
check_options
if [ -n "$dry_run" ]; then
    print_documents
else
    "$action"
fi
