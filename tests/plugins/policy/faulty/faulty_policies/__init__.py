"""Policies that each break the contract in one way."""

import dataclasses
import sys


class Sound:
    order_by = "id"

    def order(self, candidates, request):
        return candidates


not_a_class = Sound()


class NeedsArguments(Sound):
    def __init__(self, weights):
        self.weights = weights


class ReadsInNoOrder(Sound):
    order_by = "name"


class SaysNoOrder:
    def order(self, candidates, request):
        return candidates


class OrdersNothing:
    order_by = "id"


class WantsOne(Sound):
    def order(self, candidates):
        return candidates


class LeavesOut(Sound):
    def order(self, candidates, request):
        return candidates[1:]


class ReturnsTwice(Sound):
    def order(self, candidates, request):
        return [*candidates, candidates[0]]


class ReturnsAStranger(Sound):
    def order(self, candidates, request):
        return [dataclasses.replace(candidates[0], id=77), *candidates[1:]]


class ChangesOne(Sound):
    def order(self, candidates, request):
        return [dataclasses.replace(candidates[0], free=1 << 60), *candidates[1:]]


class ReturnsIds(Sound):
    def order(self, candidates, request):
        return [backend.id for backend in candidates]


class ReturnsNothing(Sound):
    def order(self, candidates, request):
        sorted(candidates, key=lambda backend: backend.id)


class Raises(Sound):
    def order(self, candidates, request):
        return sorted(candidates, key=lambda backend: backend.price)


class Exits(Sound):
    def order(self, candidates, request):
        sys.exit("no licence")


class MindsTheFirst(Sound):
    def order(self, candidates, request):
        if candidates[0].id != 5:
            raise ValueError("never that one")
        return candidates


class SortsInPlace(Sound):
    def order(self, candidates, request):
        candidates.sort(key=lambda backend: backend.free)
        return candidates
