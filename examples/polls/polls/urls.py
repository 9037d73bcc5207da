"""Addresses of the pages."""

from django.urls import path

from . import views

app_name = "polls"

urlpatterns = [
    path("", views.QuestionList.as_view(), name="list"),
    path("questions/<slug:slug>/", views.detail, name="detail"),
    path("questions/<slug:slug>/results/", views.results, name="results"),
]
