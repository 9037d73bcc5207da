"""The same questions for programs, as JSON.

The API lives on the visitor's session and keeps the protection against forged requests: a client
sends back the token of its cookie in the header X-CSRFToken.
"""

import json

from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, JsonResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from . import voting
from .models import Question

STATUS = {
    voting.NotOpen.code: 409,
    voting.AlreadyCast.code: 409,
    voting.InvalidSelection.code: 422,
}

# Far more than a ballot needs; what is longer is not worth parsing.
MAX_BODY = 16 * 1024


def failure(status, code, message):
    """Return the one shape that all errors of the API have."""
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)


def represent(question, now):
    """Return what the API tells about a question, without its results."""
    return {
        "slug": question.slug,
        "prompt": question.prompt,
        "state": str(question.state(now)),
        "opens_at": question.opens_at.isoformat(),
        "closes_at": question.closes_at.isoformat() if question.closes_at else None,
        "max_choices": question.max_choices,
        "url": reverse("api:question", args=[question.slug]),
    }


def find(slug, now):
    """Return a public question; the answer for any other is the API's own 404."""
    try:
        return Question.objects.public(now).get(slug=slug)
    except Question.DoesNotExist as error:
        raise Http404(slug) from error


def json_404(view):
    """Answer 404 as JSON, where Django would answer with a page."""

    def wrapped(request, *args, **kwargs):
        try:
            return view(request, *args, **kwargs)
        except Http404:
            return failure(404, "not_found", "There is no such question.")

    return wrapped


@require_safe
def questions(request):
    """List public questions, a page at a time, optionally of one state."""
    now = timezone.now()
    found = Question.objects.public(now)
    state = request.GET.get("state")
    if state == Question.State.OPEN:
        found = found.open(now)
    elif state == Question.State.CLOSED:
        found = found.closed(now)
    elif state is not None:
        return failure(400, "invalid_state", "The state is either open or closed.")
    page = Paginator(found, settings.POLLS_PAGE_SIZE).get_page(request.GET.get("page"))
    return JsonResponse(
        {
            "count": page.paginator.count,
            "page": page.number,
            "pages": page.paginator.num_pages,
            "questions": [represent(question, now) for question in page],
        }
    )


@never_cache
@ensure_csrf_cookie
@json_404
@require_safe
def question(request, slug):
    """Return one question with its choices, and its results for whoever may see them."""
    now = timezone.now()
    found = find(slug, now)
    voted = voting.has_voted(found, voting.known_voter_of(request))
    answer = represent(found, now)
    answer["details"] = found.details
    answer["voted"] = voted
    answer["choices"] = [{"id": choice.pk, "text": choice.text} for choice in found.choices.all()]
    answer["results"] = None
    if found.shows_results(now, voted):
        answer["results"] = [
            {"text": row.text, "votes": row.votes, "percent": row.percent}
            for row in found.results()
        ]
    return JsonResponse(answer)


@json_404
@require_POST
def ballots(request, slug):
    """Cast a ballot: `{"choices": [ID, ...]}`."""
    found = find(slug, timezone.now())
    if request.content_type != "application/json":
        return failure(415, "unsupported_media_type", "Send application/json.")
    if len(request.body) > MAX_BODY:
        return failure(413, "too_large", f"A ballot has at most {MAX_BODY} bytes.")
    try:
        selected = json.loads(request.body)["choices"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return failure(400, "invalid_body", 'Send an object such as {"choices": [1, 2]}.')
    # In Python True is an int too, and would vote for the choice with id 1.
    if not isinstance(selected, list) or any(type(pk) is not int for pk in selected):
        return failure(400, "invalid_body", "The choices are a list of ids.")
    choices = [choice for choice in found.choices.all() if choice.pk in selected]
    if len(choices) != len(selected):
        return failure(422, "invalid_selection", "Select choices of this question only, once each.")
    try:
        ballot = voting.cast(found, choices, voting.voter_of(request))
    except voting.VotingError as error:
        return failure(STATUS[error.code], error.code, str(error))
    return JsonResponse({"ballot": ballot.pk, "cast_at": ballot.cast_at.isoformat()}, status=201)
