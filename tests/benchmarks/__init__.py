import os

ENVIRONMENT = dict(os.environ)  # the user's; tests.conftest, once imported, changes it to suit the tests
