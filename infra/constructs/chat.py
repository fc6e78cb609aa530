"""A Slack channel that shows runs and alarms, through Amazon Q Developer in chat applications."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_chatbot as chatbot
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from infra import roles
from infra.settings import ChatSettings


class Chat(Construct):
    """A topic of its own for messages in Amazon Q's format, since e-mail wants text; the channel has the alarms' topic as well."""

    def __init__(
        self, scope: Construct, construct_id: str, *, name: str, settings: ChatSettings, alarms: sns.ITopic, key: kms.IKey
    ) -> None:
        super().__init__(scope, construct_id)
        self.topic = sns.Topic(self, "Topic", display_name="Pre-training, for chat", master_key=key, enforce_ssl=True)
        role = roles.chat_role(self)
        chatbot.CfnSlackChannelConfiguration(
            self,
            "Slack",
            configuration_name=f"{name}-{cdk.Stack.of(self).region}",
            slack_workspace_id=settings.slack_workspace_id,
            slack_channel_id=settings.slack_channel_id,
            iam_role_arn=role.role_arn,
            # Without one Amazon Q applies AdministratorAccess; the guardrail also bounds roles that people bring with them.
            guardrail_policies=[f"arn:{cdk.Aws.PARTITION}:iam::aws:policy/CloudWatchReadOnlyAccess"],
            sns_topic_arns=[self.topic.topic_arn, alarms.topic_arn],
            logging_level="ERROR",
        )
