# Headless Chromium loads a page served here: script, fetch, a worker, and a picture of it. Its own sandbox is off: it needs user
# namespaces, which a step may not make.
set -e
place=$(mktemp -d)
cd "$place"
export HOME=$place
cat >index.html <<'H'
<!doctype html><title>plain</title><p id=a>plain</p><script>
fetch('data.json').then(answer => answer.json()).then(data => {
  document.getElementById('a').textContent = 'sum ' + (data.a + data.b);
  new Worker(URL.createObjectURL(new Blob(['postMessage(6 * 7)']))).onmessage = said => { document.title = 'worker ' + said.data };
});
</script>
H
echo '{"a": 40, "b": 2}' >data.json
/usr/bin/python3 -m http.server 8765 --bind 127.0.0.1 >served 2>&1 &
server=$!
until /usr/bin/python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8765))' 2>/dev/null; do kill -0 $server; done
browse() { chromium --headless --no-sandbox --disable-gpu --user-data-dir="$place/profile" "$@" http://127.0.0.1:8765/ 2>>said; }
browse --virtual-time-budget=10000 --dump-dom | grep -oE 'sum 42|worker 42' | sort
browse --screenshot="$place/page.png" --window-size=300,200 >/dev/null
head -c 8 page.png | od -An -c | tr -d ' '
kill $server
cd /; rm -rf "$place"
