"""Wait for a submitted job and exit with its driver's status: python cluster/exit_status.py SUBMISSION-ID.

`ray job submit` itself exits with 1 for every failure, and with 0 for a job that was stopped. The address and the token
are read from the environment, as `ray job` does. A stopped job exits with 143: Ray does not note what its driver said.
A job that never ran, or that the cluster no longer knows, exits with 1.
"""

from __future__ import annotations

import sys
import time

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

POLL_S = 5
BROKEN, STOPPED = 1, 143


def exit_status(job: JobDetails) -> int:
    """The status of a job that has ended, as a shell gives it: 128 and the signal where one killed the driver."""
    if job.status == JobStatus.STOPPED:
        return STOPPED
    code = job.driver_exit_code
    if code is None:
        return BROKEN
    return code if code >= 0 else 128 - code


def main() -> int:
    """Wait and say how the job ended."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        client = JobSubmissionClient()
        while not (job := client.get_job_info(sys.argv[1])).status.is_terminal():
            time.sleep(POLL_S)
    except (ConnectionError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BROKEN
    status = exit_status(job)
    print(f"{job.submission_id}: {job.status}, exit status {status}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
