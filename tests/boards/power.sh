#!/bin/sh
# A board's power supply: power.sh FOLDERS COMMAND... runs the board until it goes off, again when it wants to reboot.
# FOLDERS are the board's control groups, one a hierarchy, the first of version 2; all that the board runs is in one group
# of each. This shell is beside it, because a group with processes of its own cannot give groups below it limits.
# SIGTERM is a power cut: systemd-nspawn's own end would leave the board running.
set -u
folders=$1
shift
trap 'echo 1 >"${folders%% *}/cgroup.kill"' TERM
for folder in $folders; do
    mkdir -p "$folder/power"
    echo $$ >"$folder/power/cgroup.procs"
done
while :; do
    for folder in $folders; do
        find "$folder/machine" -depth -type d -exec rmdir {} \; 2>/dev/null
        mkdir -p "$folder/machine"
    done
    # shellcheck disable=SC2016 # the inner shell's own process id and arguments
    sh -c 'for folder in $0; do echo $$ >"$folder/machine/cgroup.procs"; done; exec "$@"' "$folders" "$@" &
    wait $!
    code=$?
    # How systemd-nspawn says that the board asked for a reboot.
    [ $code = 133 ] || exit $code
done
