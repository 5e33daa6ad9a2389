# Reads OpenMetrics from standard input, and fails if it is none. Prints each family's name, kind and unit.
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name, family.type, family.unit)
