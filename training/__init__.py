"""The training job: torchtitan on SageMaker."""
