"""Settings: what they read, and that they start safe or not at all."""

import os
import subprocess
import sys
import tempfile
from unittest import mock

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import SimpleTestCase, TestCase

from polls_site import environment


class EnvironmentTests(SimpleTestCase):
    def read(self, reader, value, *args):
        variables = {} if value is None else {"POLLS_TEST": value}
        with mock.patch.dict(os.environ, variables):
            return reader("POLLS_TEST", *args)

    def test_flag(self):
        table = [
            ("1", True),
            ("TRUE", True),
            (" on ", True),
            ("0", False),
            ("no", False),
            ("", False),
        ]
        for value, expected in table:
            with self.subTest(value=value):
                self.assertIs(self.read(environment.flag, value, not expected), expected)
        self.assertIs(self.read(environment.flag, None, True), True)

    def test_a_misspelt_flag_stops_the_start(self):
        with self.assertRaisesMessage(ImproperlyConfigured, "POLLS_TEST"):
            self.read(environment.flag, "ture", False)

    def test_number(self):
        self.assertEqual(self.read(environment.number, " 12 ", 3), 12)
        self.assertEqual(self.read(environment.number, None, 3), 3)
        for value in ("-1", "1.5", "many", "\u00b2"):
            with self.subTest(value=value), self.assertRaises(ImproperlyConfigured):
                self.read(environment.number, value, 3)

    def test_words(self):
        self.assertEqual(
            self.read(environment.words, "a.example, b.example,"), ["a.example", "b.example"]
        )
        self.assertEqual(self.read(environment.words, None, ("c",)), ["c"])

    def test_text_without_default_must_be_set(self):
        with self.assertRaises(ImproperlyConfigured):
            self.read(environment.text, "")


class StartTests(SimpleTestCase):
    """A process of its own for each, since settings are read once."""

    def start(self, *args, **variables):
        with tempfile.TemporaryDirectory() as data:
            return subprocess.run(  # noqa: S603 - our own program with our own arguments
                [sys.executable, "manage.py", *args],
                cwd=settings.BASE_DIR,
                env={"PATH": os.environ["PATH"], "DJANGO_DATA_DIR": data, **variables},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )

    def test_without_a_key_it_does_not_start(self):
        done = self.start("check")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("DJANGO_SECRET_KEY must be set", done.stderr)

    def test_production_passes_the_deployment_check(self):
        done = self.start(
            "check", "--deploy", "--fail-level", "WARNING",
            DJANGO_SECRET_KEY="abcdefghij" * 6, DJANGO_ALLOWED_HOSTS="polls.example",
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_development_does_not_pass_it(self):
        done = self.start("check", "--deploy", "--fail-level", "WARNING", DJANGO_DEBUG="1")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("security.W018", done.stderr)


class MigrationTests(TestCase):
    def test_models_and_migrations_agree(self):
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
