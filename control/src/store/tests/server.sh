# A PostgreSQL cluster of its own, on a socket in a new directory, for as long as standard input is open.
# Prints the directory once it answers.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
directory=$(mktemp -d)
as=
if [ "$(id -u)" = 0 ]; then
  chown postgres "$directory"
  as="setpriv --reuid=postgres --regid=postgres --clear-groups"
fi
cd "$directory"
trap '$as "$bin/pg_ctl" -D "$directory/data" -m immediate -w stop >/dev/null 2>&1; rm -rf "$directory"' EXIT
$as "$bin/initdb" --auth=trust --username=signet --encoding=UTF8 --no-locale --no-sync -D "$directory/data" >/dev/null
$as "$bin/pg_ctl" -D "$directory/data" -l "$directory/log" -w \
  -o "-k $directory -c listen_addresses= -c fsync=off -c max_connections=500" start >/dev/null
echo "$directory"
cat >/dev/null
