"""The organisers' side."""

from django.contrib import admin, messages
from django.db.models import Count
from django.utils import timezone

from .models import Choice, Question


class ChoiceInline(admin.TabularInline):
    """Choices beside their question; fixed as soon as somebody has voted."""

    model = Choice
    extra = 2
    readonly_fields = ["votes"]

    def has_add_permission(self, request, obj=None):
        return not started(obj) and super().has_add_permission(request, obj)

    def has_change_permission(self, request, obj=None):
        return not started(obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request, obj=None):
        return not started(obj) and super().has_delete_permission(request, obj)


def started(question):
    """Tell whether a ballot has been cast on the question."""
    return question is not None and question.ballots.exists()


@admin.register(Question)
class QuestionAdmin(admin.ModelAdmin):
    """Questions with their choices and what became of them."""

    list_display = ["prompt", "state", "opens_at", "closes_at", "ballots"]
    list_filter = ["reveal", "opens_at"]
    search_fields = ["prompt", "details"]
    prepopulated_fields = {"slug": ["prompt"]}
    date_hierarchy = "opens_at"
    inlines = [ChoiceInline]
    actions = ["close_now"]

    def get_queryset(self, request):
        return super().get_queryset(request).annotate(ballot_count=Count("ballots"))

    @admin.display(description="state")
    def state(self, question):
        return question.state(timezone.now()).label

    @admin.display(description="ballots", ordering="ballot_count")
    def ballots(self, question):
        return question.ballot_count

    @admin.action(description="Close the selected questions now", permissions=["change"])
    def close_now(self, request, queryset):
        now = timezone.now()
        # Not `queryset` itself: an update of what is counted per group is not possible.
        chosen = Question.objects.filter(pk__in=queryset.values("pk"))
        closed = chosen.open(now).filter(opens_at__lt=now).update(closes_at=now)
        skipped = len(queryset) - closed
        self.message_user(request, f"{closed} closed.", messages.SUCCESS)
        if skipped:
            self.message_user(request, f"{skipped} not open, left as they are.", messages.WARNING)
