#!/bin/sh
# GoFlow2 for popgate: IPFIX and NetFlow v9 in, one JSON object a record out, with the fields of mapping.yaml beside its own.
#
# In popgate.toml, of the box:
#   [[export.collector]]
#   name = "goflow2"
#   address = "192.0.2.50:2055"
exec goflow2 \
	-listen 'netflow://:2055?count=2' \
	-mapping "$(dirname "$0")/mapping.yaml" \
	-format json -transport file -transport.file /var/log/goflow2.json
