"""JobSet v1alpha2 and the part of SkyPilot's tasks that launch/ uses, as JSON schemas.

JobSet's fields are those of api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset (read in
November 2026); kubernetes-validate knows the Job in it, and not JobSet. SkyPilot's are those of its
documented task YAML, for where the package, whose own schema is complete, is not installed.
"""


def table(needs=(), **fields):
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(needs),
        "additionalProperties": False,
    }


TEXT, NUMBER, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
# A label of DNS: 63 letters with what JobSet and Kubernetes append to it.
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,44}[a-z0-9])?$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
METADATA = table(["name"], name=NAME, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
WORDS = {"type": "array", "items": TEXT}

REPLICATED = table(
    ["name", "template"],
    name=NAME,
    groupName=TEXT,
    replicas=NUMBER,
    template=table(["spec"], metadata={"type": "object"}, spec={"type": "object"}),
    dependsOn={"type": "array"},
)
RULE = table(
    ["action"],
    name=NAME,
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    targetReplicatedJobs=WORDS,
    onJobFailureReasons={
        "type": "array",
        "items": {
            "enum": ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes"]
            + ["MaxFailedIndexesExceeded", "PodFailurePolicy"]
        },
    },
)
JOBSET = table(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=METADATA,
    spec=table(
        ["replicatedJobs"],
        replicatedJobs={"type": "array", "items": REPLICATED, "minItems": 1},
        network=table(enableDNSHostnames=YES, subdomain=NAME, publishNotReadyAddresses=YES),
        successPolicy=table(
            ["operator"], operator={"enum": ["All", "Any"]}, targetReplicatedJobs=WORDS
        ),
        failurePolicy=table(
            maxRestarts=NUMBER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules={"type": "array", "items": RULE},
        ),
        startupPolicy=table(startupPolicyOrder={"enum": ["AnyOrder", "InOrder"]}),
        suspend=YES,
        coordinator={"type": "object"},
        managedBy=TEXT,
        ttlSecondsAfterFinished=NUMBER,
        volumeClaimPolicies={"type": "array"},
    ),
)

SKY = table(
    ["resources", "run"],
    name=NAME,
    workdir=TEXT,
    num_nodes={"type": "integer", "minimum": 1},
    resources=table(
        ["accelerators"],
        accelerators={"type": "string", "pattern": r"^(tpu-v\w+-\d+|[A-Z][\w-]+:\d+)$"},
        accelerator_args=table(
            runtime_version=TEXT, tpu_name=TEXT, tpu_vm=YES, gcp_queued_resource=YES
        ),
        use_spot=YES,
    ),
    envs=TEXTS,
    file_mounts={
        "type": "object",
        "additionalProperties": table(
            ["source", "mode"],
            source={"type": "string", "pattern": "^(gs|s3)://"},
            mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
        ),
    },
    setup=TEXT,
    run=TEXT,
)
