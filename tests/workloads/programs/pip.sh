# The 60 packages of a Django project's tests, in an environment of their own: how many, whether they fit together, and that they load.
set -e
place=$(mktemp -d)
export HOME=$place
/usr/bin/python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check -r packages.txt
"$place/venv/bin/pip" list --disable-pip-version-check --format freeze | sort
"$place/venv/bin/pip" check
"$place/venv/bin/python" -c 'import django, rest_framework, pytest; print(django.VERSION[0])'
rm -rf "$place"
