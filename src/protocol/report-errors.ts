/**
 * What a control plane makes of a report that it cannot use: the job counts as failed with one of these codes, so that
 * it is handed out again and the report is not sent for ever.
 */
export const REPORT_ERRORS = {
  invalid_report: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'a connector sent a report that does not fit the protocol',
    hint: 'Check that the connector is up to date.',
  },
  invalid_result: {
    retryable: true,
    fixedBy: 'connector admin',
    seen: 'a connector reported success with a result that does not fit the job',
    hint: 'The connector answered something that does not fit the job. Check that it is up to date.',
  },
} as const
