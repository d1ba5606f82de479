"""Its library is not installed."""

import a_library_that_nobody_has

Driver = a_library_that_nobody_has.Driver
