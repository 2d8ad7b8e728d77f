import pytest

from local_cloud.__main__ import main
from local_cloud.unsupported import TemplateFindings
from tests.unit.local_cloud.running_cloud import RunningCloud


def test_what_a_resource_asks_for_in_vain_is_noted_with_its_reason() -> None:
    findings = TemplateFindings()
    findings.note("stack", "One", "AWS::RDS::DBInstance", {"StorageEncrypted": True, "MonitoringInterval": 0})
    findings.note("stack", "Vault", "AWS::EC2::FlowLog", {"ResourceId": "vpc-1"})
    findings.note("stack", "Group", "AWS::RDS::DBParameterGroup", {"Parameters": {"no_such_setting": "1"}})
    findings.note("stack", "Disabled", "AWS::EFS::FileSystem", {"BackupPolicy": {"Status": "DISABLED"}})
    findings.note("stack", "Storage", "AWS::CloudWatch::Alarm", {"Namespace": "AWS/EFS"})
    findings.note("stack", "Disk", "AWS::CloudWatch::Alarm", {"Namespace": "AWS/RDS"})
    findings.note("stack", "Own", "AWS::CloudWatch::Alarm", {"Namespace": "CitizensRecovery"})
    assert sorted(key for found in findings._findings.values() for key in [f.property for f in found]) == [
        "*",
        "Namespace AWS/EFS",
        "Parameters.no_such_setting",
        "StorageEncrypted",
    ]


def test_the_list_follows_what_is_deployed(cloud: RunningCloud, capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> str:
        assert main(["unsupported", "--state", str(cloud.state)]) == 0
        return capsys.readouterr().out

    logs = {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "listed", "RetentionInDays": 30}}
    assert cloud.deploy("listed", {"Logs": logs}) == "CREATE_COMPLETE"
    assert "AWS::Logs::LogGroup RetentionInDays (1 resources)" in listed()
    logs["Properties"] = {"LogGroupName": "listed"}
    assert cloud.deploy("listed", {"Logs": logs}) == "UPDATE_COMPLETE"
    assert "RetentionInDays" not in listed()
    logs["Properties"] = {"LogGroupName": "listed", "RetentionInDays": 14}
    assert cloud.deploy("listed", {"Logs": logs}) == "UPDATE_COMPLETE"
    assert "RetentionInDays" in listed()
    assert cloud.destroy("listed") == "DELETE_COMPLETE"
    assert "RetentionInDays" not in listed()
