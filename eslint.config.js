import tseslint from 'typescript-eslint';

/**
 * The rooms of src/, lowest first. A room may import the rooms of earlier lines, never those of its own
 * line or later ones; src/index.ts and src/cli see everything.
 */
const LAYERS = [
  ['util'],
  ['timeline', 'pages'],
  ['native'],
  ['migration-stream', 'qemu', 'checkpoint'],
  ['store', 'working-set', 'aftercare'],
  ['serving-protocol', 'page-server'],
  ['vms'],
  ['transfer', 'launch', 'capture'],
  ['interchange', 'save', 'serving', 'restore'],
  ['uffd', 'doctor', 'bench', 'learn'],
  ['cli'],
];

const layerRules = LAYERS.flatMap((rooms, level) =>
  rooms.map((room) => {
    const forbidden = LAYERS.slice(level)
      .flat()
      .filter((other) => other !== room);
    return {
      files: [`src/${room}/**/*.ts`],
      rules: {
        'no-restricted-imports': [
          'error',
          {
            paths: [
              {
                name: 'node:readline',
                message: 'It waits for ever for a socket that breaks: readLines() in src/util/lines.ts.',
              },
            ],
            patterns: [
              ...forbidden.map((other) => ({
                group: [`**/${other}/**`],
                message: `src/${room} lies below or beside src/${other} (see LAYERS in eslint.config.js).`,
              })),
              { regex: '^(\\.\\./)+index\\.js$', message: 'src/index.ts is for users of the library.' },
            ],
          },
        ],
      },
    };
  }),
);

export default tseslint.config(
  { ignores: ['dist', 'build', 'node_modules', '.cache', 'coverage'] },
  ...tseslint.configs.recommendedTypeChecked.map((config) => ({ ...config, files: ['**/*.ts'] })),
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { project: './tsconfig.json' } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/require-await': 'off',
      'no-restricted-exports': ['error', { restrictDefaultExports: { direct: true } }],
      'max-lines': ['error', { max: 400, skipBlankLines: true, skipComments: true }],
      'max-lines-per-function': ['error', { max: 70, skipBlankLines: true, skipComments: true }],
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/util/rights.ts'],
    rules: {
      'no-restricted-syntax': [
        'error',
        ...['Literal[value=BE_ROOT]', 'TemplateElement[value.raw=BE_ROOT]'].map((selector) => ({
          selector: selector.replace('BE_ROOT', '/\\b(as|be) root\\b|\\bsudo\\b/i'),
          message: 'Advice to be root depends on who asks: see src/util/rights.ts.',
        })),
      ],
    },
  },
  {
    files: ['test/**/*.ts', 'vitest.config.ts'],
    rules: { 'max-lines-per-function': 'off', 'max-lines': 'off', 'no-restricted-exports': 'off' },
  },
  ...layerRules,
);
