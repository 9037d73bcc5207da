# CPython's own tests of what a sandbox could get in the way of: processes, signals, sockets, files, terminals, limits. One line for each
# test and what came of it. The interpreter is $PYTHON (the system's by default) with its `test` package (Debian: libpython3-testsuite).
set -e
export PYTHONDONTWRITEBYTECODE=1 HOME=${HOME:-/tmp}
cd "$(mktemp -d)"
modules=${MODULES:-"test_subprocess test_multiprocessing_fork test_multiprocessing_spawn test_asyncio test_socket test_os test_posix test_signal test_threading test_shutil \
test_tempfile test_ssl test_select test_epoll test_mmap test_fcntl test_pty test_pwd test_grp test_resource test_concurrent_futures test_zipfile test_tarfile test_pathlib \
test_faulthandler test_httpservers test_urllib2_localnet test_venv test_time test_openpty test_posixpath test_fork1 test_wait3 test_wait4 test_eintr test_mailbox \
test_logging test_gc test_selectors test_poll test_stat test_getpass test_dbm test_shelve test_uuid test_platform test_site test_sysconfig test_queue test_glob \
test_ftplib test_smtplib test_imaplib test_poplib test_cmd_line test_cmd_line_script test_unicode_file test_pdb"}
# shellcheck disable=SC2086 # several are meant
"${PYTHON:-/usr/bin/python3}" -m test -j2 -v --timeout 600 -u none $modules 2>&1 || true
