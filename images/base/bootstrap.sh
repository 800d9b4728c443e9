#!/bin/sh
# Make a minimal Debian with debootstrap and import it into the engine as one layer.
# usage: bootstrap.sh SUITE TAG LABEL DOCKER   DOCKER is the command of the engine
set -eu
PATH=$PATH:/usr/sbin:/sbin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
debootstrap --variant=minbase "$1" "$scratch/root"
tar --create --file "$scratch/root.tar" --directory "$scratch/root" --exclude='./var/cache/apt/*.deb' .
"$4" import --change "LABEL $3" "$scratch/root.tar" "$2"
