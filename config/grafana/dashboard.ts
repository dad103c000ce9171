import {
  BigValueColorMode,
  GraphDrawStyle,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  StackingConfigBuilder,
  StackingMode,
  VizLegendOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common';
import {
  AnnotationQueryBuilder,
  DashboardBuilder,
  DashboardCursorSync,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  VariableRefresh,
} from '@grafana/grafana-foundation-sdk/dashboard';
import { PanelBuilder as Heatmap } from '@grafana/grafana-foundation-sdk/heatmap';
import { DataqueryBuilder, PromQueryFormat } from '@grafana/grafana-foundation-sdk/prometheus';
import { PanelBuilder as Stat } from '@grafana/grafana-foundation-sdk/stat';
import { PanelBuilder as StateTimeline } from '@grafana/grafana-foundation-sdk/statetimeline';
import { PanelBuilder as Table } from '@grafana/grafana-foundation-sdk/table';
import { PanelBuilder as TimeSeries } from '@grafana/grafana-foundation-sdk/timeseries';
import { type PanelPlan, ROWS } from './panels.js';

/** Whatever Prometheus the reader of the dashboard chooses. */
const SOURCE = { type: 'prometheus', uid: '$datasource' };
const WIDTH = 24;
const GREEN = 'green';
const RED = 'red';

/** The dashboard as text. */
export function dashboardJson(): string {
  const builder = new DashboardBuilder('homeproxy')
    .uid('homeproxy')
    .description('Processes that move between hosts while their connections keep working: traffic, migrations, nodes.')
    .tags(['homeproxy'])
    .timezone('browser')
    .refresh('15s')
    .time({ from: 'now-1h', to: 'now' })
    .tooltip(DashboardCursorSync.Crosshair)
    .withVariable(new DatasourceVariableBuilder('datasource').label('Prometheus').type('prometheus'))
    .withVariable(
      new QueryVariableBuilder('instance')
        .label('Node')
        .datasource(SOURCE)
        .query('label_values(homeproxy_build_info{job="homeproxy"}, instance)')
        .refresh(VariableRefresh.OnTimeRangeChanged)
        .multi(true)
        .includeAll(true)
        .allValue('.*')
        .current({ text: 'All', value: '$__all' }),
    )
    .annotation(
      new AnnotationQueryBuilder()
        .name('Migrations')
        .datasource(SOURCE)
        .enable(true)
        .iconColor('blue')
        .expr(
          'sum by (instance, outcome, direction) (changes(homeproxy_migrations_total{job="homeproxy"}[$__rate_interval])) > 0',
        )
        .titleFormat('{{outcome}}')
        .textFormat('{{direction}}, decided by {{instance}}'),
    );
  let id = 1;
  for (const row of ROWS) {
    builder.withRow(new RowBuilder(row.title).id(id++));
    for (const plan of row.panels) builder.withPanel(panelOf(plan).id(id++));
  }
  return `${JSON.stringify(builder.build(), null, 2)}\n`;
}

type AnyPanel = Stat | TimeSeries | StateTimeline | Heatmap | Table;

function panelOf(plan: PanelPlan): AnyPanel {
  const panel = drawn(plan);
  panel.title(plan.title).description(plan.question).datasource(SOURCE).unit(plan.unit);
  plan.queries.forEach(({ expr, legend }, index) => {
    const query = new DataqueryBuilder()
      .refId(String.fromCharCode(65 + index))
      .datasource(SOURCE)
      .expr(expr)
      .legendFormat(legend);
    if (plan.kind === 'table') query.instant().format(PromQueryFormat.Table);
    else query.range();
    if (plan.kind === 'heatmap') query.format(PromQueryFormat.Heatmap);
    panel.withTarget(query);
  });
  return panel;
}

function drawn(plan: PanelPlan): AnyPanel {
  switch (plan.kind) {
    case 'number':
      return new Stat()
        .height(4)
        .span(WIDTH / 6)
        .colorMode(BigValueColorMode.Value)
        .reduceOptions(new ReduceDataOptionsBuilder().calcs(['lastNotNull']))
        .thresholds(thresholdsOf(plan));
    case 'states':
      return new StateTimeline()
        .height(8)
        .span(WIDTH / 3)
        .thresholds(thresholdsOf({ needed: 1 }));
    case 'heatmap':
      return new Heatmap()
        .height(8)
        .span(WIDTH / 3)
        .calculate(false);
    case 'table':
      return new Table()
        .height(8)
        .span(WIDTH / 3)
        .withTransformation({
          id: 'organize',
          options: { excludeByName: { Time: true, Value: true, __name__: true, job: true, instance: true } },
        });
    default:
      return lines(plan.kind);
  }
}

function lines(kind: 'lines' | 'stack' | 'bars'): TimeSeries {
  const panel = new TimeSeries()
    .height(8)
    .span(WIDTH / 3)
    .min(0)
    .legend(
      new VizLegendOptionsBuilder()
        .displayMode(LegendDisplayMode.List)
        .placement(LegendPlacement.Bottom)
        .showLegend(true),
    );
  if (kind === 'bars') panel.drawStyle(GraphDrawStyle.Bars).fillOpacity(60);
  if (kind === 'stack') panel.fillOpacity(30);
  if (kind !== 'lines') panel.stacking(new StackingConfigBuilder().mode(StackingMode.Normal));
  return panel;
}

function thresholdsOf({ alarming, needed }: Pick<PanelPlan, 'alarming' | 'needed'>): ThresholdsConfigBuilder {
  const builder = new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute);
  if (needed !== undefined) {
    return builder.steps([
      { value: null, color: RED },
      { value: needed, color: GREEN },
    ]);
  }
  return builder.steps([
    { value: null, color: GREEN },
    ...(alarming === undefined ? [] : [{ value: alarming, color: RED }]),
  ]);
}
