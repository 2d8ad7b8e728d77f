from typing import Any

from tests.unit.local_cloud.running_cloud import RunningCloud


def topic(name: Any, **properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": name, **properties}}


def nested(url: str, **parameters: Any) -> dict[str, Any]:
    return {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": url, "Parameters": parameters}}


def child_of(cloud: RunningCloud, stack: str) -> str:
    return cloud.physical_id(stack, "Child")


def test_a_changed_child_is_updated_in_place_and_what_is_unchanged_keeps_its_attributes(cloud: RunningCloud) -> None:
    cloud.client("secretsmanager").create_secret(Name="nested/secret", SecretString='{"username": "somebody"}')
    value = "{{resolve:secretsmanager:nested/secret:SecretString:username}}"
    resources = {
        "Topic": topic("nested-topic"),
        "Value": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": value, "Name": "/nested"}},
    }
    outputs = {"Topic": {"Fn::GetAtt": ["Topic", "TopicName"]}}
    parent = {"Child": nested(cloud.template_url("first", resources, outputs))}
    shown = {"Topic": {"Fn::GetAtt": ["Child", "Outputs.Topic"]}}
    assert cloud.deploy("parent", parent, shown) == "CREATE_COMPLETE"
    assert cloud.outputs("parent") == {"Topic": "nested-topic"}
    assert cloud.client("ssm").get_parameter(Name="/nested")["Parameter"]["Value"] == "somebody"

    before = child_of(cloud, "parent")
    more = {**resources, "Second": topic("nested-second")}
    parent = {"Child": nested(cloud.template_url("second", more, outputs))}
    assert cloud.deploy("parent", parent, shown) == "UPDATE_COMPLETE"
    assert child_of(cloud, "parent") == before
    assert cloud.outputs("parent") == {"Topic": "nested-topic"}
    assert cloud.destroy("parent") == "DELETE_COMPLETE"
    assert cloud.client("sns").list_topics()["Topics"] == []


def test_a_child_that_fails_half_way_leaves_nothing(cloud: RunningCloud) -> None:
    broken = {
        "Topic": topic("half-way"),
        "Selection": {
            "Type": "AWS::Backup::BackupSelection",
            "Properties": {"BackupPlanId": "nobody", "BackupSelection": {"SelectionName": "x"}},
            "DependsOn": "Topic",
        },
    }
    assert cloud.deploy("half-way", {"Child": nested(cloud.template_url("broken", broken))}) == "ROLLBACK_COMPLETE"
    assert "Plan 'nobody' not found" in cloud.failure("half-way")
    assert cloud.client("sns").list_topics()["Topics"] == []


def test_a_failed_update_of_a_child_brings_back_what_was(cloud: RunningCloud) -> None:
    good = {"Topic": topic("stays", DisplayName="before")}
    assert cloud.deploy("back", {"Child": nested(cloud.template_url("good", good))}) == "CREATE_COMPLETE"
    bad = {
        "Topic": topic("stays", DisplayName="after"),
        "Selection": {
            "Type": "AWS::Backup::BackupSelection",
            "Properties": {"BackupPlanId": "nobody", "BackupSelection": {"SelectionName": "x"}},
            "DependsOn": "Topic",
        },
    }
    assert cloud.deploy("back", {"Child": nested(cloud.template_url("bad", bad))}) == "UPDATE_ROLLBACK_COMPLETE"
    [arn] = [found["TopicArn"] for found in cloud.client("sns").list_topics()["Topics"]]
    assert cloud.client("sns").get_topic_attributes(TopicArn=arn)["Attributes"]["DisplayName"] == "before"
    assert cloud.destroy("back") == "DELETE_COMPLETE"


def test_a_template_that_cannot_be_read_or_needs_a_list_fails_with_a_sentence(cloud: RunningCloud) -> None:
    missing = {"Child": nested(f"{cloud.environment['AWS_ENDPOINT_URL']}/templates/nothing-there")}
    assert cloud.deploy("missing", missing) == "ROLLBACK_COMPLETE"
    assert "cannot be read" in cloud.failure("missing")
    url = cloud.template_url("good", {"Topic": topic("list")})
    assert cloud.deploy("list", {"Child": nested(url, Names=["a", "b"])}) == "ROLLBACK_COMPLETE"
    assert "must be an object with String" in cloud.failure("list")
    without = {"Child": {"Type": "AWS::CloudFormation::Stack", "Properties": {}}}
    assert cloud.deploy("without", without) == "ROLLBACK_COMPLETE"
    assert "TemplateURL" in cloud.failure("without")
