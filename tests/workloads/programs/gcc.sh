# Compiles, links with -pthread and -O2, runs with threads, a shared library, and an archive; make in parallel where it is there.
set -e
place=$(mktemp -d)
cd "$place"
cat >part.c <<'C'
#include <stdatomic.h>
static _Atomic int sum;
void *add(void *n) { for (int i = 0; i < 1000; i++) atomic_fetch_add(&sum, (int)(long)n); return 0; }
int total(void) { return sum; }
C
cat >main.c <<'C'
#include <pthread.h>
#include <stdio.h>
void *add(void *); int total(void);
int main(void) { pthread_t t[8]; for (long i = 0; i < 8; i++) pthread_create(t + i, 0, add, (void *)i); for (int i = 0; i < 8; i++) pthread_join(t[i], 0); printf("%d\n", total()); }
C
gcc -O2 -fPIC -shared -o libpart.so part.c
gcc -O2 -pthread -o shared main.c -L. -lpart -Wl,-rpath,"$place"
./shared
gcc -O2 -flto -c part.c && ar rcs libwhole.a part.o && gcc -O2 -flto -pthread -static-libgcc -o whole main.c libwhole.a
./whole
if command -v make >/dev/null; then printf 'all: a b c d\n%%: main.c\n\tgcc -pthread -O2 -o $@ main.c part.c\n' >Makefile; make -s -j4; ls a b c d | wc -l; else echo 4; fi
cd /; rm -rf "$place"
