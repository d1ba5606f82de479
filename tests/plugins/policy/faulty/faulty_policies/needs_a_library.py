"""Its library is not installed."""

import a_library_that_nobody_has

Policy = a_library_that_nobody_has.Policy
