"""A stranger's policy: it fulfils the contract without inheriting anything."""


class NewestFirst:
    """The backend that was registered last: new arrays are filled before old ones."""

    order_by = "id"

    def order(self, candidates, request):
        return sorted(candidates, key=lambda backend: -backend.id)
