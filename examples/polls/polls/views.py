"""Pages for people."""

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from django.views.generic import ListView

from .forms import BallotForm
from .models import Question
from .voting import has_voted, known_voter_of, voter_of


class QuestionList(ListView):
    """Open questions first, then those that have closed."""

    template_name = "polls/question_list.html"
    context_object_name = "questions"
    http_method_names = ["get", "head", "options"]

    def get_paginate_by(self, queryset):
        return settings.POLLS_PAGE_SIZE

    def get_queryset(self):
        now = timezone.now()
        questions = Question.objects.public(now)
        if self.request.GET.get("state") == Question.State.OPEN:
            return questions.open(now)
        if self.request.GET.get("state") == Question.State.CLOSED:
            return questions.closed(now)
        return questions

    def get_context_data(self, **kwargs):
        context = super().get_context_data(**kwargs)
        now = timezone.now()
        context["rows"] = [(question, question.state(now)) for question in context["questions"]]
        context["state"] = self.request.GET.get("state", "")
        return context


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def detail(request, slug):
    """Show the ballot paper, and take it back."""
    now = timezone.now()
    question = get_object_or_404(Question.objects.public(now), slug=slug)
    if request.method == "POST":
        form = BallotForm(question, request.POST)
        if form.is_valid() and form.cast(voter_of(request)):
            messages.success(request, "Your vote has been counted.")
            return HttpResponseRedirect(reverse("polls:results", args=[slug]))
        # A refusal by the state of things is a conflict; one for what was filled in is not.
        conflict = {"already_cast", "not_open"} & {
            error.code for error in form.non_field_errors().as_data()
        }
        return page(request, question, form, status=409 if conflict else 422)
    return page(request, question, BallotForm(question), status=200)


def page(request, question, form, status):
    """Render a question's page around its form."""
    now = timezone.now()
    voted = has_voted(question, known_voter_of(request))
    context = {
        "question": question,
        "form": form,
        "voted": voted,
        "open": question.state(now) == Question.State.OPEN,
        "shows_results": question.shows_results(now, voted),
    }
    return render(request, "polls/detail.html", context, status=status)


@never_cache
@require_safe
def results(request, slug):
    """Show the results to whoever may see them, and say to the others when they may."""
    now = timezone.now()
    question = get_object_or_404(Question.objects.public(now), slug=slug)
    shown = question.shows_results(now, has_voted(question, known_voter_of(request)))
    context = {
        "question": question,
        "shown": shown,
        "rows": question.results() if shown else [],
        "ballots": question.ballots.count(),
    }
    return render(request, "polls/results.html", context, status=200 if shown else 403)
