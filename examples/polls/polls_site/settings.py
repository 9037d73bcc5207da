"""Settings of the polls site. Everything that differs between machines comes from the environment.

The default is production: with nothing set, the site refuses to start without a secret key and
serves HTTPS only. `DJANGO_DEBUG=1` is the one switch that a developer needs.
"""

from pathlib import Path

from django.core.management.utils import get_random_secret_key

from . import environment

BASE_DIR = Path(__file__).resolve().parent.parent

# What the site writes (database, collected static files) lies in one folder that git ignores.
DATA_DIR = Path(environment.text("DJANGO_DATA_DIR", str(BASE_DIR / "var")))
DATA_DIR.mkdir(parents=True, exist_ok=True)

DEBUG = environment.flag("DJANGO_DEBUG", False)
# Sessions of a development server may well end when it restarts; production's may not.
SECRET_KEY = environment.text("DJANGO_SECRET_KEY", get_random_secret_key() if DEBUG else None)
ALLOWED_HOSTS = environment.words("DJANGO_ALLOWED_HOSTS")

INSTALLED_APPS = [
    "polls",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "polls_site.urls"
WSGI_APPLICATION = "polls_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": environment.text("DJANGO_DATABASE", str(DATA_DIR / "polls.sqlite3")),
        # Voters who come at the same moment wait for each other's transaction.
        "OPTIONS": {"timeout": 30},
        # A file, since an in-memory database has one connection for all threads, and the tests
        # of concurrent votes need the locking of the real thing.
        "TEST": {"NAME": str(DATA_DIR / "test.sqlite3")},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-gb"
TIME_ZONE = environment.text("DJANGO_TIME_ZONE", "UTC")
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage."
        + ("StaticFilesStorage" if DEBUG else "ManifestStaticFilesStorage")
    },
}

# HTTPS everywhere, unless a developer works on it.
SECURE_SSL_REDIRECT = environment.flag("DJANGO_SSL_REDIRECT", not DEBUG)
SESSION_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_SECURE = not DEBUG
CSRF_TRUSTED_ORIGINS = environment.words("DJANGO_TRUSTED_ORIGINS")
SECURE_HSTS_SECONDS = environment.number("DJANGO_HSTS_SECONDS", 0 if DEBUG else 365 * 24 * 3600)
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_SECONDS > 0
SECURE_HSTS_PRELOAD = SECURE_HSTS_SECONDS > 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if environment.flag("DJANGO_BEHIND_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# How many questions one page of the list, and of the API, holds.
POLLS_PAGE_SIZE = environment.number("POLLS_PAGE_SIZE", 20) or 20

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {
        "polls": {"handlers": ["console"], "level": environment.text("DJANGO_LOG_LEVEL", "INFO")}
    },
}
