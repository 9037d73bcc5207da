//! A Django checkout without any workflow: one is made for it, shown, run, and written where asked.

#![allow(clippy::unwrap_used, clippy::panic)]

mod place;

use std::fs;

use place::Place;
use serde_json::Value;

const MANAGE: &str = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings')\n";
const SETTINGS: &str = "import os\nSECRET_KEY = os.environ['APP_KEY']\nDATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql'}}\nraise SystemExit('this is never imported')\n";

const TESTS: &str = "from django.test import TestCase\n\nclass Things(TestCase):\n    def test_one_thing_and_another(self):\n        self.assertTrue(True)\n";

fn checkout() -> Place {
    let place = Place::new();
    fs::remove_dir_all(place.checkout().join(".github")).unwrap();
    place.write("backend/manage.py", MANAGE);
    place.write("backend/config/settings.py", SETTINGS);
    place.write("backend/config/__init__.py", "");
    place.write("backend/things/tests.py", TESTS);
    place.write(
        "pyproject.toml",
        "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9,<3.13'\n[dependency-groups]\ndev = ['pytest-django']\n",
    );
    place
}

#[test]
fn init_writes_a_workflow_with_comments_and_never_over_another() {
    let place = checkout();
    let path = place.checkout().join(".github/workflows/test.yml");
    let output = place.caisson(&["init"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.as_bytes(), output.stdout);
    for part in [
        "# From pyproject.toml.",
        "python-version: \"3.1",
        "APP_KEY: \"for-tests-only",
        "test -d /usr/lib/postgresql || sudo apt-get install",
        "initdb",
        "PGHOST: 127.0.0.1",
        "--group dev",
        "python -m pytest",
        "DJANGO_SETTINGS_MODULE: config.settings",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let check = place.caisson(&["check"]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    fs::write(&path, "mine\n").unwrap();
    let again = place.caisson(&["init"]).output().unwrap();
    assert_eq!((again.status.code(), fs::read_to_string(&path).unwrap().as_str()), (Some(2), "mine\n"));
    let nothing = Place::new();
    assert_eq!(nothing.caisson(&["init"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn plan_shows_the_generated_workflow_and_writes_nothing() {
    let place = checkout();
    fs::write(place.checkout().join("backend/config/settings.py"), "SECRET_KEY = 'x'\n").unwrap();
    let output = place.caisson(&["plan", "--json"]).output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let workflow = &plan["workflows"][0];
    assert_eq!((output.status.code(), &workflow["file"], &workflow["jobs"][0]["key"]), (Some(0), &"(generated)".into(), &"test".into()));
    assert!(!workflow["jobs"][0]["steps"][2]["reaches"].as_array().unwrap().is_empty(), "{workflow}");
    assert!(workflow["jobs"][0]["steps"][3]["reaches"].as_array().unwrap().is_empty(), "{workflow}");
    assert!(!place.checkout().join(".github").exists());
}

#[test]
fn a_started_project_runs_without_a_workflow() {
    let place = Place::new();
    fs::remove_dir_all(place.checkout().join(".github")).unwrap();
    place.write("requirements.txt", "django\n");
    place.write("manage.py", "import os, sys\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site_.settings')\nfrom django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n");
    place.write("site_/__init__.py", "");
    place.write("site_/urls.py", "urlpatterns = []\n");
    place.write(
        "site_/settings.py",
        "import os\nSECRET_KEY = os.environ['SITE_SECRET_KEY']\nROOT_URLCONF = 'site_.urls'\nINSTALLED_APPS = ['django.contrib.auth', 'django.contrib.contenttypes', 'things']\nDATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}\n",
    );
    place.write("things/__init__.py", "");
    place.write(
        "things/tests.py",
        "from django.contrib.auth.models import User\nfrom django.test import TestCase\n\nclass Things(TestCase):\n    def test_a_row(self):\n        User.objects.create(username='x')\n        self.assertEqual(User.objects.count(), 1)\n",
    );
    let run = place.run(&[]);
    assert_eq!(run.code, 0, "{}{}", run.errors, run.told());
    assert!(run.errors.contains("this checkout has no workflow") && run.errors.contains("python manage.py test"), "{}", run.errors);
    assert!(run.log("test").contains("Ran 1 test"), "{}", run.log("test"));
}

#[test]
fn tox_runs_with_a_workflow_and_without() {
    let place = Place::new();
    place.write("setup.cfg", "[metadata]\nname = thing\nversion = 1\n[options]\npy_modules = thing\ninstall_requires =\n    django\n");
    place.write("setup.py", "from setuptools import setup\nsetup()\n");
    place.write("thing.py", "");
    place.write(
        "tox.ini",
        "[tox]\nenvlist = py3{9-14}-dj42, py3-postgres, docs\n[testenv]\nskip_install = true\ndeps =\n    dj42: django<5\n    docs: -r none.txt\ncommands = python -m unittest -v test_thing\n",
    );
    place.write(
        "test_thing.py",
        "import unittest\n\nimport django\n\n\nclass Thing(unittest.TestCase):\n    def test_version(self):\n        self.assertEqual(django.VERSION[0], 4)\n",
    );
    // As teams write it: one step that installs and tests. `pip install --upgrade pip` twice in a job, too.
    place.write(
        ".github/workflows/t.yml",
        "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - uses: actions/setup-python@v5\n        id: python\n      - name: Tests\n        run: |\n          python -m pip install --upgrade pip tox\n          tox -e py3-dj42\n      - run: test \"$(ls -d \"$pythonLocation\"/lib/python3*/site-packages/pip-*.dist-info | wc -l)\" = 1\n",
    );
    let run = place.run(&[]);
    run.expect(0);
    assert!(run.log("test").contains("test_version (test_thing.Thing"), "{}", run.told());
    assert_eq!(run.step("test", "Packages for Tests")["outcome"], "success", "{}", run.told());
    assert!(run.of_type("egress").all(|entry| entry["step_name"] != "Tests" || entry["package"]["origin"] != "upstream"), "{}", run.told());

    fs::remove_dir_all(place.checkout().join(".github")).unwrap();
    let run = place.run(&[]);
    run.expect(0);
    assert!(run.errors.contains("tox run --skip-pkg-install -e py3"), "{}", run.errors);
    assert!(run.log("test").contains("Ran 1 test"), "{}", run.log("test"));
}
