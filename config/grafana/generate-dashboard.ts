/** Prints the dashboard: `node dist/config/grafana/generate-dashboard.js >config/grafana/homeproxy.json` */
import { dashboardJson } from './dashboard.js';

process.stdout.write(dashboardJson());
