import { isIP } from 'node:net';
import { z } from 'zod';

export const DEFAULT_METRICS_PORT = 7078;

const absolutePath = z
  .string()
  .regex(/^\/[^\0]*$/, 'must be an absolute path')
  .max(4096);

/** What a node tells Prometheus, and to whom. */
export const metricsSection = z
  .strictObject({
    enabled: z
      .boolean('must be true or false')
      .default(true)
      .describe('Whether this node serves metrics at all. Default true.'),
    listen: z
      .string()
      .refine((text) => isIP(text) !== 0, 'must be an IPv4 or IPv6 address of this machine, 0.0.0.0 or ::')
      .default('127.0.0.1')
      .describe('Address to serve /metrics and /healthz on; 0.0.0.0 or :: are all. Default 127.0.0.1.'),
    port: z
      .int('must be a whole number')
      .min(1, 'must be between 1 and 65535')
      .max(65_535, 'must be between 1 and 65535')
      .default(DEFAULT_METRICS_PORT)
      .describe(`TCP port to serve them on. Default ${DEFAULT_METRICS_PORT}.`),
    maxProcesses: z
      .int('must be a whole number of processes')
      .min(0, 'must be at least 0 (processes)')
      .max(10_000, 'must be at most 10000 (processes)')
      .default(100)
      .describe(
        'How many processes have packet counters of their own; those of all others are summed. Processes, default 100.',
      ),
    tls: z
      .strictObject({
        certificate: absolutePath.describe('Certificate to show, with its chain; PEM.'),
        key: absolutePath.describe('Its key, readable by root only (mode 0600); PEM.'),
      })
      .optional()
      .describe('Serve HTTPS. Default: HTTP.'),
    basicAuth: z
      .strictObject({
        user: z
          .string()
          .regex(/^[^:\p{Cc}]{1,128}$/u, 'must be 1 to 128 characters without colon and control characters')
          .describe('Name that a caller must give.'),
        passwordFile: absolutePath.describe(
          'File with the password in its first line, readable by root only (mode 0600).',
        ),
      })
      .optional()
      .describe('Ask for a name and a password (RFC 7617); use it with `tls`. Default: nobody is asked.'),
  })
  .prefault({})
  .describe('Metrics for Prometheus.');

/** The checked `metrics` section of a configuration. */
export type MetricsSettings = z.output<typeof metricsSection>;
