# Everything that a user or a developer does with this project, as one command each. `make` alone explains.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

#: variables of `make demo`
PEERS ?= 4
ROUNDS ?= 10
TARGET ?=
SPLIT ?= iid
EXAMPLES ?= 3000
EPOCHS ?= 1
LEARNING_RATE ?= 0
PROXIMAL ?= 0
SEED ?= 1
KILL ?= auto
#: further keys of [run] for it, such as RUN_WITH="rule=median codec=int8 downlink=int8"
RUN_WITH ?=
#: a model's Python file, for `make demo` also its name or folder; what it trains on, if not on what it is made for
MODEL ?=
DATASET ?=
#: the run that `make graphs` draws
RUN ?= runs/latest
#: the runs that `make compare` puts side by side, such as RUNS="runs/a runs/b"
RUNS ?=
#: of the boards of `make test-boards`: amd64, or arm64, which is emulated; this machine's own unless given
ARCH ?=
#: how many random histories `make sim` plays
SEEDS ?= 2000
#: how long faults come in `make chaos`
MINUTES ?= 2
#: for how long `make fuzz` fuzzes each of its targets, and which; all unless named
SECONDS ?= 60
TARGETS ?=
#: rounds of `make soak`; sizes of `make bench-scale`
SOAK_ROUNDS ?= 2000
SIZES ?= 4,16,64,128,256
#: the folder of a fleet of boards: its inventory, certificates, and what is made for it
FLEET ?= fleet
#: for `make certs`: names instead of the inventory's, such as NAMES="kitchen roof" BROKER=kitchen,192.168.1.10
NAMES ?=
BROKER ?=
#: further options of it, such as CERTS_WITH=--check, --rotate, or "--authority trust" (--help explains)
CERTS_WITH ?=
#: hosts that a playbook is for, such as LIMIT=kitchen,roof; further options, such as ANSIBLE_OPTIONS="--check --diff"
LIMIT ?=
ANSIBLE_OPTIONS ?=
#: for `make dashboard`: the page's port on this machine
PAGE ?= 9001
#: for `make stop`: yes ends the run that is on; for deploy and upgrade: yes lets the run pause; for reset: yes
END_RUN ?=
BELOW_QUORUM ?=
CONFIRM ?=

BIN := .venv/bin
DEMO_OPTIONS = --peers $(PEERS) --rounds $(ROUNDS) --split $(SPLIT) --examples $(EXAMPLES) $(if $(DATASET),--dataset $(DATASET)) \
	--epochs $(EPOCHS) --learning-rate $(LEARNING_RATE) --proximal $(PROXIMAL) --seed $(SEED) --kill $(KILL) \
	$(if $(RUN_WITH),--run $(RUN_WITH)) $(if $(TARGET),--target $(TARGET)) $(if $(MODEL),--model $(MODEL))

# Keys of boards that are not known yet are taken and kept beside the inventory; another key than before is refused. And
# every fleet has connections of its own: the boards of two may have the same addresses.
PLAY = ANSIBLE_CONFIG=ansible/ansible.cfg \
	ANSIBLE_SSH_CONTROL_PATH_DIR=~/.ansible/cp-$$(echo $(abspath $(FLEET)) | cksum | cut -d ' ' -f 1) \
	ANSIBLE_SSH_COMMON_ARGS="-o UserKnownHostsFile=$(abspath $(FLEET))/known_hosts -o StrictHostKeyChecking=accept-new" \
	.venv-fleet/bin/ansible-playbook --inventory $(FLEET)/inventory.yml $(if $(LIMIT),--limit '$(LIMIT)') \
	$(if $(BELOW_QUORUM),--extra-vars edge_peer_below_quorum=$(BELOW_QUORUM)) $(ANSIBLE_OPTIONS)
# For who only asks: a board that is off is known after twice this many seconds, and the answer is not worth more.
ASK = ANSIBLE_TIMEOUT=4 ANSIBLE_SSH_RETRIES=1

# Boards are containers with networks of their own.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
AS_ROOT_UNASKED = $(if $(AS_ROOT),sudo -n)
BOARDS = env ARCH=$(ARCH) PYTHONDONTWRITEBYTECODE=1 $(BIN)/python

.PHONY: help
help: ## show this help
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables, such as in  make demo PEERS=8 ROUNDS=20 TARGET=0.88 SPLIT=dirichlet:0.3"
	@awk '/^#: / { print "  " substr($$0, 4) ":" } /^[A-Z_]+ \?=/ { printf "    %-14s %s\n", $$1, substr($$0, index($$0, "?=") + 3) }' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup ## run a whole federation on this machine: broker, peers, a killed controller, graphs
	@$(BIN)/python -m edge_peer.operator.demo $(DEMO_OPTIONS)

.PHONY: certs
certs: setup-fleet ## make the certificates of a fleet that are missing or soon expire (FLEET, NAMES, BROKER, CERTS_WITH)
	@.venv-fleet/bin/python -m edge_peer.operator.certificates --folder $(FLEET)/pki --inventory $(FLEET)/inventory.yml \
		$(if $(BROKER),--broker $(BROKER)) $(CERTS_WITH) $(NAMES)

.PHONY: sites
sites: setup-fleet ## write the brokers' configuration of a federation over several sites, from FLEET/sites.toml (docs/several-brokers.md)
	@.venv-fleet/bin/python -m edge_peer.operator.sites $(FLEET)/sites.toml --out $(FLEET)/sites --pki $(FLEET)/pki

.PHONY: graphs
graphs: setup ## draw the graphs of a run and its report again (RUN=runs/<run id>)
	@$(BIN)/python -m edge_peer.operator.graphs $(RUN)

.PHONY: compare
compare: setup ## put runs side by side on one page, runs/compare.html (RUNS="runs/<run id> runs/<run id>")
	@$(BIN)/python -m edge_peer.operator.report.compare $(RUNS)

.PHONY: shards
shards: setup ## divide the data set: into FLEET/shards for the inventory's peers, or into shards/ (PEERS, SPLIT, DATASET, EXAMPLES, SEED)
	@peers=$(PEERS); out=shards; \
	if [ -e $(FLEET)/inventory.yml ]; then \
		requirements/environment.sh .venv-fleet fleet 13 && out=$(FLEET)/shards && \
		peers=$$(.venv-fleet/bin/ansible peers --inventory $(FLEET)/inventory.yml --list-hosts | tail -n +2 | xargs | tr ' ' ,) && \
		[ -n "$$peers" ] || { echo "$(FLEET)/inventory.yml names no peers" >&2; exit 2; }; \
	fi; \
	$(BIN)/python -m data_shards --peers "$$peers" --split $(SPLIT) $(if $(DATASET),--dataset $(DATASET)) --examples $(EXAMPLES) \
		--seed $(SEED) --out $$out

.PHONY: deploy
deploy: inventory ## bring the fleet to what its inventory says, blank boards too (FLEET, LIMIT; ANSIBLE_OPTIONS=--check: only say what would change)
	@$(PLAY) ansible/site.yml

.PHONY: start
start: inventory ## start the peers of the fleet, and ask for a run unless one is on
	@ANSIBLE_DISPLAY_OK_HOSTS=true $(PLAY) ansible/start.yml

.PHONY: stop
stop: inventory ## stop the peers of the fleet; a run that is on goes on with `make start`, unless END_RUN=yes ends it
	@$(PLAY) $(if $(END_RUN),--extra-vars edge_peer_end_run=$(END_RUN)) ansible/stop.yml

.PHONY: status
status: inventory ## how every board of the fleet is: up, role, round, accuracy, memory, ...; fails unless all are well
	@$(ASK) $(PLAY) ansible/status.yml >$(FLEET)/status.log 2>&1 || { cat $(FLEET)/status.log >&2; exit 2; }
	@.venv-fleet/bin/python -m edge_peer.operator.fleet.status --status $(FLEET)/status --pki $(FLEET)/pki

.PHONY: dashboard
dashboard: inventory ## the live page of the fleet's broker on this machine, over SSH, until Ctrl-C (FLEET, PAGE=9001)
	@.venv-fleet/bin/python -m edge_peer.operator.dashboard.tunnel --inventory $(FLEET)/inventory.yml \
		--known-hosts $(FLEET)/known_hosts --port $(PAGE)

.PHONY: watch
watch: inventory ## the fleet's federation as it happens, until Ctrl-C (BROKER=host:port, if not as of the last make status)
	@.venv-fleet/bin/python -m edge_peer.operator.fleet.watch --status $(FLEET)/status --pki $(FLEET)/pki $(if $(BROKER),--broker $(BROKER))

.PHONY: collect
collect: inventory ## CSVs, round logs and models of all boards that answer into runs/<run id>/, with graphs and report.html; at any time
	@$(ASK) $(PLAY) ansible/collect.yml
	@.venv-fleet/bin/python -m edge_peer.operator.fleet.collect --collected $(FLEET)/collected

.PHONY: upgrade
upgrade: inventory ## install the software as it is here on the boards, one after another, while the run goes on
	@$(PLAY) ansible/upgrade.yml

.PHONY: rotate-certs
rotate-certs: inventory ## new certificates for all, while the run goes on (CERTS_WITH="--authority trust" and others: a new authority)
	@.venv-fleet/bin/python -m edge_peer.operator.certificates --folder $(FLEET)/pki --inventory $(FLEET)/inventory.yml \
		$(or $(CERTS_WITH),--rotate)
	@$(PLAY) ansible/rotate-certs.yml

.PHONY: reset
reset: inventory ## remove all traces from the boards: software, models, results (CONFIRM=yes)
	@$(PLAY) $(if $(CONFIRM),--extra-vars edge_peer_reset_confirmed=$(CONFIRM)) ansible/reset.yml

.PHONY: inventory
inventory: setup-fleet
	@[ -e $(FLEET)/inventory.yml ] || { echo "no $(FLEET)/inventory.yml: begin with  mkdir -p $(FLEET) && cp \
	ansible/inventory.example.yml $(FLEET)/inventory.yml  and name your boards in it (or FLEET=another-folder)" >&2; exit 2; }

.PHONY: model
model: setup-models ## make a model's artifacts anew with TensorFlow (MODEL=models/image_cnn.py)
	@.venv-models/bin/python -m models.export $(or $(MODEL),models/image_cnn.py)

.PHONY: test
test: ## what must pass: style, types, tests in all environments, and the shortest one with boards (more: make test-boards)
# TensorFlow is fetched while the code is read.
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target lint types setup-models
	@$(MAKE) --no-print-directory test-main test-tflite test-models test-boards-quick

.PHONY: test-main
test-main: setup-test mosquitto chromium ## the tests, but for those that need tflite-runtime or TensorFlow
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not tensorflow and not live"
# They wait for processes, timers and each other more than they compute.
	@$(BIN)/python -m pytest -n 4 --dist worksteal -m "live and not tensorflow and not brokers and not again"

.PHONY: test-tflite
test-tflite: ## the trainer's tests with tflite-runtime, which needs Python 3.10 or 3.11
	@requirements/environment.sh .venv-tflite tflite 11; status=$$?; \
	if [ $$status = 3 ]; then echo "no test with tflite-runtime: it has no wheels for this machine's Python"; \
	elif [ $$status = 0 ]; then .venv-tflite/bin/python -m pytest -m "not tensorflow" \
		tests/test_trainers.py tests/test_trainers_correction.py tests/test_trainers_int8.py tests/test_predict.py; \
	else exit $$status; fi

.PHONY: test-models
test-models: setup-models setup mosquitto ## the tests of the models, with TensorFlow, on two cores
	@requirements/environment.sh .venv-tflite tflite 11 || echo "without tflite-runtime: it has no wheels for this Python"
	@.venv-models/bin/python -m pytest -m "tensorflow and not again" -n 2 --dist worksteal $(wildcard tests/test_models*.py)
	@.venv-models/bin/python -m pytest -m tensorflow tests/live/test_backends.py tests/test_docs.py tests/test_predict.py

.PHONY: test-again
test-again: setup-test setup-models mosquitto chromium ## more of what make test tries: random sizes, chaos, a soak, many peers; takes five minutes
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "again and live" tests/live
	@requirements/environment.sh .venv-tflite tflite 11 || echo "without tflite-runtime: it has no wheels for this Python"
	@.venv-models/bin/python -m pytest -m "again and tensorflow" -n 2 --dist worksteal $(wildcard tests/test_models*.py)

.PHONY: test-boards
test-boards: setup-test setup-fleet ## the tests with a fleet of boards: real systemd, SSH, power cuts (root; ARCH=arm64: emulated)
	@$(AS_ROOT) $(BOARDS) -m tests.boards image
	@$(AS_ROOT) $(BOARDS) -m pytest -p no:cacheprovider -n 2 --dist loadfile tests/boards

.PHONY: test-boards-quick
test-boards-quick: setup-test setup-fleet ## the shortest part of it that is worth the most, where this machine can carry boards; says so if not
	@if ! $(AS_ROOT_UNASKED) true 2>/dev/null; then echo "NO TEST WITH BOARDS: they need root, or sudo without a password"; \
	else $(AS_ROOT_UNASKED) $(BOARDS) -m tests.boards able; status=$$?; \
	if [ $$status = 0 ]; then $(AS_ROOT_UNASKED) $(BOARDS) -m pytest -p no:cacheprovider -m quick tests/boards/test_faults.py; \
	elif [ $$status = 3 ]; then echo "NO TEST WITH BOARDS, for the reason above"; else exit $$status; fi; fi

.PHONY: test-brokers
test-brokers: setup-test mosquitto ## the tests with a cluster of two ejabberds, one of which is killed (root; installs ejabberd)
	@$(if $(filter 0,$(shell id -u)),,sudo) $(BIN)/python -m tests.live.ejabberd
	@$(BIN)/python -m pytest -m brokers tests/live/test_clustered_broker.py

.PHONY: sim
sim: setup-test ## play random histories of faults (SEEDS=2000) and check the protocol's invariants
	@$(BIN)/python -m tests.sim --seeds $(SEEDS)

.PHONY: fuzz
fuzz: setup-test ## feed the decoders what coverage makes of damaged documents and files (SECONDS=60 each, TARGETS); what it finds stays in .fuzz/
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

.PHONY: chaos
chaos: setup-test mosquitto ## kill, stop, cut off and starve real peers and their broker while runs go on (MINUTES=2 SEED PEERS); writes bench/results/
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --peers $(PEERS)

.PHONY: bench
bench: setup-test setup-models mosquitto ## measure accuracy, memory, round time, training and failover; writes bench/results/
	@$(BIN)/python -m bench

.PHONY: bench-training
bench-training: setup setup-models ## measure the trainer's speed and memory beside Keras's, a part of `make bench`
	@$(BIN)/python -m bench.training

.PHONY: bench-codecs
bench-codecs: setup ## measure codecs of updates: bytes and accuracy beside float32's; writes bench/results/
	@$(BIN)/python -m bench.codecs

.PHONY: bench-drift
bench-drift: setup ## measure FedProx and SCAFFOLD beside FedAvg on unlike data; writes bench/results/
	@$(BIN)/python -m bench.drift

.PHONY: bench-aggregate
bench-aggregate: setup ## measure aggregation rules beside numpy and a copy of the updates; writes bench/results/
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench.aggregate

.PHONY: bench-scale
bench-scale: setup-test mosquitto ## measure what many peers cost on one machine: rounds, joins, deaths, elections (SIZES); writes bench/results/
	@$(BIN)/python -m bench.scale --peers $(SIZES)

.PHONY: bench-writes
bench-writes: setup-test mosquitto ## measure what a round writes to a board's SD card (root: on a device of its own); writes bench/results/
	@$(BIN)/python -m bench.writes

.PHONY: soak
soak: setup-test mosquitto ## thousands of rounds with joins, leaves and kills: does anything grow? (SOAK_ROUNDS, SEED); writes bench/results/
	@$(BIN)/python -m bench.soak --rounds $(SOAK_ROUNDS) --seed $(SEED)

.PHONY: bench-attacks
bench-attacks: setup ## measure accuracy of aggregation rules under attack, with real training; writes bench/results/
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench.attacks

.PHONY: lint
lint: setup-test ## ruff and ansible-lint: style and likely mistakes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PATH="$(abspath $(BIN)):$$PATH" ANSIBLE_CONFIG=ansible/ansible.cfg $(BIN)/ansible-lint --offline -q ansible

.PHONY: types
types: setup-test ## mypy, strict
	@$(BIN)/mypy

.PHONY: format
format: setup-test ## let ruff put the code into its format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: docs
docs: setup-test ## make the tables in docs/ anew that repeat what the code says
	@$(BIN)/python -m docs.tables
	@$(BIN)/python -m tests.test_protocol_document

.PHONY: pictures
pictures: setup-test mosquitto chromium ## make the pictures in docs/dashboard.md anew, with its tests
	@DASHBOARD_IMAGES=docs/images $(BIN)/python -m pytest tests/live/test_dashboard.py

.PHONY: lock
lock: ## lock the newest fitting versions of all dependencies
	@requirements/lock.sh

.PHONY: setup
setup:
	@requirements/environment.sh .venv demo 13

.PHONY: setup-test
setup-test:
	@requirements/environment.sh .venv demo 13
	@requirements/environment.sh .venv test 13

.PHONY: setup-fleet
setup-fleet:
	@requirements/environment.sh .venv-fleet fleet 13

.PHONY: setup-models
setup-models:
	@requirements/environment.sh .venv-models models 13

.PHONY: mosquitto
mosquitto: setup
	@$(BIN)/python -m edge_peer.operator.local.broker

.PHONY: chromium
chromium: setup-test
	@$(BIN)/python -m tests.live.browser

.PHONY: clean
clean: ## remove environments and caches; runs/ and shards/ stay
	rm -rf .venv .venv-tflite .venv-models .venv-fleet .mypy_cache .pytest_cache .ruff_cache .hypothesis build ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
