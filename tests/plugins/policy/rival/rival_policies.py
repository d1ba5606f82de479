"""Another package's policy for a name that we have as well."""


class FirstFit:
    order_by = "id"

    def order(self, candidates, request):
        return candidates
